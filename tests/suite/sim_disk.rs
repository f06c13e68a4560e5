//! A disk in memory that loses what was not synced, as `batch::disk` says a disk may.
//!
//! Every call has a number. A [`Fault`] makes one call, or every call from it on, fail; power loss
//! is [`SimDisk::lose_power`]. A reader may be told to take every file away at its rename.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use async_data_processor::batch::disk::{Disk, NewFile};

type Inode = usize;

/// Which calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The call with this number.
    Once(usize),
    /// It and every later one.
    From(usize),
}

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
struct Dir {
    live: BTreeMap<String, Inode>,
    durable: BTreeMap<String, Inode>,
}

#[derive(Debug, Clone, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// A sync failed: the bytes are gone for good.
    forgotten: bool,
}

#[derive(Debug, Clone)]
enum Node {
    Dir(Dir),
    File(Content),
}

#[derive(Debug, Clone)]
struct Rename {
    from: (Inode, String),
    to: (Inode, String),
    node: Inode,
}

#[derive(Debug)]
struct Inner {
    nodes: Vec<Node>,
    renames: Vec<Rename>,
    calls: usize,
    failed: usize,
    fault: Fault,
    log: Vec<String>,
    reader: bool,
    taken: Vec<(PathBuf, Vec<u8>)>,
}

/// Clones share the disk.
#[derive(Debug, Clone)]
pub(crate) struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

fn error(kind: io::ErrorKind, text: &str) -> io::Error {
    io::Error::new(kind, text.to_owned())
}

fn is_batch(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "jsonl")
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(28)
}

fn input_output() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl Inner {
    /// Numbers a call; fails it if its turn to fail has come.
    fn call(&mut self, what: String, failure: fn() -> io::Error) -> io::Result<()> {
        let number = self.calls;
        self.calls += 1;
        self.log.push(what);
        let fails = match self.fault {
            Fault::None => false,
            Fault::Once(at) => number == at,
            Fault::From(at) => number >= at,
        };
        if fails {
            self.failed += 1;
            return Err(failure());
        }
        Ok(())
    }

    fn find(&self, path: &Path) -> Option<Inode> {
        let mut at = 0;
        for part in path.iter() {
            let Node::Dir(dir) = &self.nodes[at] else { return None };
            at = *dir.live.get(part.to_str().unwrap())?;
        }
        Some(at)
    }

    fn parent(&self, path: &Path) -> io::Result<(Inode, String)> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let at = self.find(parent).ok_or_else(|| error(io::ErrorKind::NotFound, "no folder"))?;
        Ok((at, path.file_name().unwrap().to_str().unwrap().to_owned()))
    }

    fn dir(&mut self, at: Inode) -> &mut Dir {
        match &mut self.nodes[at] {
            Node::Dir(dir) => dir,
            Node::File(_) => panic!("a file is used as a folder"),
        }
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<Inode> {
        let (parent, name) = self.parent(path)?;
        let at = self.nodes.len();
        self.nodes.push(node);
        self.dir(parent).live.insert(name, at);
        Ok(at)
    }

    /// A rename is atomic: it becomes durable on both sides, whichever folder is synced.
    fn make_dir_durable(&mut self, at: Inode) {
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

    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
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

impl SimDisk {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            nodes: vec![Node::Dir(Dir::default())],
            renames: Vec::new(),
            calls: 0,
            failed: 0,
            fault: Fault::None,
            log: Vec::new(),
            reader: false,
            taken: Vec::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    fn held(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Calls from now on are numbered from 0 and fail by `fault`.
    pub(crate) fn inject(&self, fault: Fault) {
        let mut inner = self.held();
        (inner.calls, inner.failed, inner.fault) = (0, 0, fault);
        inner.log.clear();
    }

    /// Lets a reader take every committed file away, with its folder, the moment it appears.
    pub(crate) fn read_at_once(&self) {
        self.held().reader = true;
    }

    pub(crate) fn calls(&self) -> usize {
        self.held().calls
    }

    pub(crate) fn failed(&self) -> usize {
        self.held().failed
    }

    /// The calls since `inject`, for a failing test's message.
    pub(crate) fn log(&self) -> String {
        self.held().log.join("\n")
    }

    /// Cuts the power: what was not synced is lost, as `loss` says.
    pub(crate) fn lose_power(&self, loss: Loss) {
        let mut inner = self.held();
        match loss {
            Loss::Nothing => return,
            Loss::All => {}
            Loss::Some(seed) => {
                // What the kernel happened to write by itself before.
                let mut bits = seed;
                for at in 0..inner.nodes.len() {
                    bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if bits >> 63 == 0 {
                        continue;
                    }
                    match &mut inner.nodes[at] {
                        Node::Dir(_) => inner.make_dir_durable(at),
                        Node::File(file) if !file.forgotten => file.durable = file.live.clone(),
                        Node::File(_) => {}
                    }
                }
            }
        }
        inner.renames.clear();
        for node in &mut inner.nodes {
            match node {
                Node::Dir(dir) => dir.live = dir.durable.clone(),
                Node::File(file) => file.live = file.durable.clone(),
            }
        }
    }

    /// How often each line stands in committed files, taken ones included.
    pub(crate) fn committed_lines(&self) -> HashMap<String, usize> {
        let inner = self.held();
        let mut lines = HashMap::new();
        let visible = inner.files().into_iter().filter(|(path, _)| !path.starts_with(".staging"));
        let batches = visible.chain(inner.taken.iter().cloned());
        for (_, bytes) in batches.filter(|(path, _)| is_batch(path)) {
            for line in String::from_utf8(bytes).unwrap().lines() {
                *lines.entry(line.to_owned()).or_default() += 1;
            }
        }
        lines
    }

    /// Staged files that are there now.
    pub(crate) fn staged(&self) -> Vec<PathBuf> {
        let files = self.held().files().into_iter().map(|(path, _)| path);
        files.filter(|path| path.starts_with(".staging")).collect()
    }

    /// Puts a file there, synced, as something else would.
    pub(crate) fn plant(&self, path: &Path, bytes: &[u8]) {
        let mut inner = self.held();
        let content = Content { live: bytes.to_vec(), durable: bytes.to_vec(), forgotten: false };
        inner.add(path, Node::File(content)).unwrap();
        let parent = inner.parent(path).unwrap().0;
        inner.make_dir_durable(parent);
    }

    /// Changes every committed file that `choose` takes; returns how many.
    pub(crate) fn tamper(
        &self,
        choose: impl Fn(&Path) -> bool,
        change: impl Fn(&mut Vec<u8>),
    ) -> usize {
        let mut inner = self.held();
        let paths: Vec<_> = inner.files().into_iter().map(|(path, _)| path).collect();
        let chosen: Vec<_> = paths.into_iter().filter(|path| choose(path)).collect();
        for path in &chosen {
            let at = inner.find(path).unwrap();
            let Node::File(file) = &mut inner.nodes[at] else { panic!("not a file") };
            change(&mut file.live);
        }
        chosen.len()
    }
}

struct SimFile {
    disk: SimDisk,
    at: Inode,
}

impl SimFile {
    fn content<'a>(&self, inner: &'a mut Inner) -> &'a mut Content {
        match &mut inner.nodes[self.at] {
            Node::File(file) => file,
            Node::Dir(_) => panic!("a folder is used as a file"),
        }
    }
}

impl NewFile for SimFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.held();
        let called = inner.call("write".to_owned(), no_space);
        let written = if called.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        self.content(&mut inner).live.extend_from_slice(written);
        called
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut inner = self.disk.held();
        let called = inner.call("sync file".to_owned(), input_output);
        let content = self.content(&mut inner);
        content.forgotten |= called.is_err();
        if !content.forgotten {
            content.durable = content.live.clone();
        }
        called
    }
}

impl Disk for SimDisk {
    fn check_root(&self) -> io::Result<()> {
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.held();
        inner.call(format!("mkdir {}", path.display()), no_space)?;
        inner.parent(path)?;
        if inner.find(path).is_none() {
            inner.add(path, Node::Dir(Dir::default()))?;
        }
        Ok(())
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let mut inner = self.held();
        inner.call(format!("create {}", path.display()), no_space)?;
        if inner.find(path).is_some() {
            return Err(error(io::ErrorKind::AlreadyExists, "exists"));
        }
        let at = inner.add(path, Node::File(Content::default()))?;
        Ok(Box::new(SimFile { disk: self.clone(), at }))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.held();
        inner.call(format!("sync folder {}", path.display()), input_output)?;
        let at = inner.find(path).ok_or_else(|| error(io::ErrorKind::NotFound, "no folder"))?;
        inner.make_dir_durable(at);
        Ok(())
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.held();
        inner.call(format!("rename {} to {}", from.display(), to.display()), no_space)?;
        let (from_at, to_at) = (inner.parent(from)?, inner.parent(to)?);
        if inner.find(to).is_some() {
            return Err(error(io::ErrorKind::AlreadyExists, "exists"));
        }
        let node = inner.find(from).ok_or_else(|| error(io::ErrorKind::NotFound, "no file"))?;
        inner.dir(from_at.0).live.remove(&from_at.1);
        inner.dir(to_at.0).live.insert(to_at.1.clone(), node);
        if inner.reader && is_batch(to) {
            let Node::File(file) = &inner.nodes[node] else { panic!("not a file") };
            let bytes = file.live.clone();
            inner.taken.push((to.to_owned(), bytes));
            inner.dir(to_at.0).live.remove(&to_at.1);
            let folder = to.parent().unwrap();
            if inner.dir(to_at.0).live.is_empty() {
                let (above, name) = inner.parent(folder)?;
                inner.dir(above).live.remove(&name);
            }
        } else {
            inner.renames.push(Rename { from: from_at, to: to_at, node });
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.held();
        inner.call(format!("remove {}", path.display()), input_output)?;
        let (parent, name) = inner.parent(path)?;
        let gone = inner.dir(parent).live.remove(&name);
        gone.map(|_| ()).ok_or_else(|| error(io::ErrorKind::NotFound, "no file"))
    }

    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn Read>>> {
        let mut inner = self.held();
        inner.call(format!("open {}", path.display()), input_output)?;
        Ok(inner.find(path).map(|at| match &inner.nodes[at] {
            Node::File(file) => Box::new(Cursor::new(file.live.clone())) as Box<dyn Read>,
            Node::Dir(_) => panic!("a folder is opened as a file"),
        }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut inner = self.held();
        inner.call(format!("list {}", path.display()), input_output)?;
        let Some(at) = inner.find(path) else { return Ok(Vec::new()) };
        Ok(inner.dir(at).live.keys().cloned().collect())
    }
}
