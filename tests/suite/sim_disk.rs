//! A disk in memory that loses what was not synced, as `batch::disk` says a disk may.
//!
//! Every call has a number. A [`Fault`] makes one call, or every call from it on, fail; power loss
//! is [`SimDisk::lose_power`]. A reader may be told to take every file away at its rename.

use std::collections::HashMap;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use async_data_processor::batch::disk::{Disk, FolderIdentity, NewFile};

use crate::sim_tree::{Content, Dir, Inode, Loss, Node, Rename, Tree};

/// Which calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The call with this number.
    Once(usize),
    /// It and every later one.
    From(usize),
}

#[derive(Debug)]
struct Inner {
    tree: Tree,
    calls: usize,
    failed: usize,
    failed_call: Option<String>,
    fault: Fault,
    log: Vec<String>,
    reader: bool,
    taken: Vec<(PathBuf, Vec<u8>)>,
    /// The call that hangs, and whether it does.
    hangs: Option<usize>,
    is_hanging: bool,
}

/// Clones share the disk.
#[derive(Debug, Clone)]
pub(crate) struct SimDisk {
    inner: Arc<(Mutex<Inner>, Condvar)>,
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
            self.failed_call = self.log.last().cloned();
            self.failed += 1;
            return Err(failure());
        }
        Ok(())
    }
}

impl SimDisk {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            tree: Tree::new(),
            calls: 0,
            failed: 0,
            failed_call: None,
            fault: Fault::None,
            log: Vec::new(),
            reader: false,
            taken: Vec::new(),
            hangs: None,
            is_hanging: false,
        };
        Self { inner: Arc::new((Mutex::new(inner), Condvar::new())) }
    }

    fn held(&self) -> MutexGuard<'_, Inner> {
        self.inner.0.lock().unwrap()
    }

    /// The disk's turn to be called; the call that is to hang waits here.
    fn turn(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.held();
        if inner.hangs == Some(inner.calls) {
            (inner.hangs, inner.is_hanging) = (None, true);
            inner = self.inner.1.wait_while(inner, |inner| inner.is_hanging).unwrap();
        }
        inner
    }

    /// Lets the call with this number hang, counted from the latest `inject`.
    pub(crate) fn hang(&self, call: usize) {
        self.held().hangs = Some(call);
    }

    /// Whether a call hangs.
    pub(crate) fn is_hanging(&self) -> bool {
        self.held().is_hanging
    }

    /// Lets the call that hangs go on.
    pub(crate) fn release(&self) {
        let mut inner = self.held();
        (inner.hangs, inner.is_hanging) = (None, false);
        self.inner.1.notify_all();
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

    /// The latest call that failed.
    pub(crate) fn failed_call(&self) -> Option<String> {
        self.held().failed_call.clone()
    }

    /// The calls since `inject`, for a failing test's message.
    pub(crate) fn log(&self) -> String {
        self.held().log.join("\n")
    }

    /// Cuts the power: what was not synced is lost, as `loss` says.
    pub(crate) fn lose_power(&self, loss: Loss) {
        self.held().tree.lose(loss);
    }

    /// How often each line stands in committed files, taken ones included.
    pub(crate) fn committed_lines(&self) -> HashMap<String, usize> {
        let inner = self.held();
        let mut lines = HashMap::new();
        let visible =
            inner.tree.files().into_iter().filter(|(path, _)| !path.starts_with(".staging"));
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
        let files = self.held().tree.files().into_iter().map(|(path, _)| path);
        files.filter(|path| path.starts_with(".staging")).collect()
    }

    /// Puts a file there, synced, as something else would.
    pub(crate) fn plant(&self, path: &Path, bytes: &[u8]) {
        let mut inner = self.held();
        let content = Content { live: bytes.to_vec(), durable: bytes.to_vec(), forgotten: false };
        inner.tree.add(path, Node::File(content)).unwrap();
        let parent = inner.tree.parent(path).unwrap().0;
        inner.tree.make_dir_durable(parent);
    }

    /// Changes every committed file that `choose` takes; returns how many.
    pub(crate) fn tamper(
        &self,
        choose: impl Fn(&Path) -> bool,
        change: impl Fn(&mut Vec<u8>),
    ) -> usize {
        let mut inner = self.held();
        let paths: Vec<_> = inner.tree.files().into_iter().map(|(path, _)| path).collect();
        let chosen: Vec<_> = paths.into_iter().filter(|path| choose(path)).collect();
        for path in &chosen {
            let at = inner.tree.find(path).unwrap();
            let Node::File(file) = &mut inner.tree.nodes[at] else { panic!("not a file") };
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
        match &mut inner.tree.nodes[self.at] {
            Node::File(file) => file,
            Node::Dir(_) => panic!("a folder is used as a file"),
        }
    }
}

impl NewFile for SimFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.turn();
        let called = inner.call("write".to_owned(), no_space);
        let written = if called.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        self.content(&mut inner).live.extend_from_slice(written);
        called
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut inner = self.disk.turn();
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
        let mut inner = self.turn();
        inner.call(format!("mkdir {}", path.display()), no_space)?;
        inner.tree.parent(path)?;
        if inner.tree.find(path).is_none() {
            inner.tree.add(path, Node::Dir(Dir::default()))?;
        }
        Ok(())
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let mut inner = self.turn();
        inner.call(format!("create {}", path.display()), no_space)?;
        if inner.tree.find(path).is_some() {
            return Err(error(io::ErrorKind::AlreadyExists, "exists"));
        }
        let at = inner.tree.add(path, Node::File(Content::default()))?;
        Ok(Box::new(SimFile { disk: self.clone(), at }))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<Option<FolderIdentity>> {
        let mut inner = self.turn();
        inner.call(format!("sync folder {}", path.display()), input_output)?;
        let at =
            inner.tree.find(path).ok_or_else(|| error(io::ErrorKind::NotFound, "no folder"))?;
        inner.tree.make_dir_durable(at);
        // No number is ever used again.
        Ok(Some(FolderIdentity { inode: at as u64, born: (0, 0) }))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.turn();
        inner.call(format!("rename {} to {}", from.display(), to.display()), no_space)?;
        let (from_at, to_at) = (inner.tree.parent(from)?, inner.tree.parent(to)?);
        if inner.tree.find(to).is_some() {
            return Err(error(io::ErrorKind::AlreadyExists, "exists"));
        }
        let node =
            inner.tree.find(from).ok_or_else(|| error(io::ErrorKind::NotFound, "no file"))?;
        inner.tree.dir(from_at.0).live.remove(&from_at.1);
        inner.tree.dir(to_at.0).live.insert(to_at.1.clone(), node);
        if inner.reader && is_batch(to) {
            let Node::File(file) = &inner.tree.nodes[node] else { panic!("not a file") };
            let bytes = file.live.clone();
            inner.taken.push((to.to_owned(), bytes));
            inner.tree.dir(to_at.0).live.remove(&to_at.1);
            let folder = to.parent().unwrap();
            if inner.tree.dir(to_at.0).live.is_empty() {
                let (above, name) = inner.tree.parent(folder)?;
                inner.tree.dir(above).live.remove(&name);
            }
        } else {
            inner.tree.renames.push(Rename { from: from_at, to: to_at, node });
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.turn();
        inner.call(format!("remove {}", path.display()), input_output)?;
        let (parent, name) = inner.tree.parent(path)?;
        let gone = inner.tree.dir(parent).live.remove(&name);
        gone.map(|_| ()).ok_or_else(|| error(io::ErrorKind::NotFound, "no file"))
    }

    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn Read>>> {
        let mut inner = self.turn();
        inner.call(format!("open {}", path.display()), input_output)?;
        Ok(inner.tree.find(path).map(|at| match &inner.tree.nodes[at] {
            Node::File(file) => Box::new(Cursor::new(file.live.clone())) as Box<dyn Read>,
            Node::Dir(_) => panic!("a folder is opened as a file"),
        }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut inner = self.turn();
        inner.call(format!("list {}", path.display()), input_output)?;
        let Some(at) = inner.tree.find(path) else { return Ok(Vec::new()) };
        Ok(inner.tree.dir(at).live.keys().cloned().collect())
    }
}
