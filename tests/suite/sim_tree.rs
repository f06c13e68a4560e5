//! The folders and files of the simulated disk, each as it is and as power loss would leave it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) type Inode = usize;

/// What power loss leaves of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing of it.
    All,
    /// All of it: the process was killed, the machine went on.
    Nothing,
    /// Some, by this seed.
    Some(u64),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Dir {
    pub(crate) live: BTreeMap<String, Inode>,
    pub(crate) durable: BTreeMap<String, Inode>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    pub(crate) live: Vec<u8>,
    pub(crate) durable: Vec<u8>,
    /// A sync failed: the bytes are gone for good.
    pub(crate) forgotten: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Node {
    Dir(Dir),
    File(Content),
}

#[derive(Debug, Clone)]
pub(crate) struct Rename {
    pub(crate) from: (Inode, String),
    pub(crate) to: (Inode, String),
    pub(crate) node: Inode,
}

/// All of them; the first node is the root.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) nodes: Vec<Node>,
    /// Renames that are not durable yet.
    pub(crate) renames: Vec<Rename>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self { nodes: vec![Node::Dir(Dir::default())], renames: Vec::new() }
    }

    /// What was not synced is lost, as `loss` says.
    pub(crate) fn lose(&mut self, loss: Loss) {
        match loss {
            Loss::Nothing => return,
            Loss::All => {}
            Loss::Some(seed) => {
                // What the kernel happened to write by itself before.
                let mut bits = seed;
                for at in 0..self.nodes.len() {
                    bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if bits >> 63 == 0 {
                        continue;
                    }
                    match &mut self.nodes[at] {
                        Node::Dir(_) => self.make_dir_durable(at),
                        Node::File(file) if !file.forgotten => file.durable = file.live.clone(),
                        Node::File(_) => {}
                    }
                }
            }
        }
        self.renames.clear();
        for node in &mut self.nodes {
            match node {
                Node::Dir(dir) => dir.live = dir.durable.clone(),
                Node::File(file) => file.live = file.durable.clone(),
            }
        }
    }

    pub(crate) fn find(&self, path: &Path) -> Option<Inode> {
        let mut at = 0;
        for part in path.iter() {
            let Node::Dir(dir) = &self.nodes[at] else { return None };
            at = *dir.live.get(part.to_str().unwrap())?;
        }
        Some(at)
    }

    pub(crate) fn parent(&self, path: &Path) -> io::Result<(Inode, String)> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let at = self.find(parent).ok_or(io::ErrorKind::NotFound)?;
        Ok((at, path.file_name().unwrap().to_str().unwrap().to_owned()))
    }

    pub(crate) fn dir(&mut self, at: Inode) -> &mut Dir {
        match &mut self.nodes[at] {
            Node::Dir(dir) => dir,
            Node::File(_) => panic!("a file is used as a folder"),
        }
    }

    pub(crate) fn add(&mut self, path: &Path, node: Node) -> io::Result<Inode> {
        let (parent, name) = self.parent(path)?;
        let at = self.nodes.len();
        self.nodes.push(node);
        self.dir(parent).live.insert(name, at);
        Ok(at)
    }

    /// A rename is atomic: it becomes durable on both sides, whichever folder is synced.
    pub(crate) fn make_dir_durable(&mut self, at: Inode) {
        let (touched, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.renames)
            .into_iter()
            .partition(|rename| rename.from.0 == at || rename.to.0 == at);
        self.renames = rest;
        for Rename { from, to, node } in touched {
            self.dir(from.0).durable.remove(&from.1);
            // Renamed again, or taken away since: then that is what is durable of it.
            if self.dir(to.0).live.get(&to.1) == Some(&node) {
                self.dir(to.0).durable.insert(to.1, node);
            }
        }
        let dir = self.dir(at);
        dir.durable = dir.live.clone();
    }

    pub(crate) fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut open = vec![(PathBuf::new(), 0)];
        while let Some((path, at)) = open.pop() {
            match &self.nodes[at] {
                Node::File(content) => found.push((path, content.live.clone())),
                Node::Dir(dir) => {
                    open.extend(dir.live.iter().map(|(name, node)| (path.join(name), *node)));
                }
            }
        }
        found
    }
}
