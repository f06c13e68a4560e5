//! The result of a task on its way out: to stdout, or into a file that appears when it is whole.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use futures_util::StreamExt;

use super::session::failure;
use crate::cli::exit::{Exit, Failure, OrExit};
use crate::store::{Store, Task};
use crate::tasks::result;

/// Writes the result of a finished task, part by part.
pub(in crate::cli) async fn write(
    store: &Arc<dyn Store>,
    task: &Task,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let none = || anyhow!("the result of {} is not kept any more", task.id);
    let head = task.result.clone().ok_or_else(none).or_exit(Exit::CheckFailed)?;
    let mut parts = result::stream(Arc::clone(store), task.id, head);
    while let Some(part) = parts.next().await {
        let part = part.map_err(failure)?;
        out.write_all(&part).context("writing the result").or_exit(Exit::Io)?;
    }
    Ok(())
}

/// Writes the result into a file: under another name first, so that what bears this one is whole,
/// and stays so when the power fails.
pub(in crate::cli) async fn save(
    store: &Arc<dyn Store>,
    task: &Task,
    path: &Path,
) -> Result<(), Failure> {
    let writing = || format!("writing {}", path.display());
    let name = path.file_name().with_context(writing).or_exit(Exit::Usage)?;
    let unfinished = path.with_file_name(format!(".{}.{}.new", name.display(), task.id));
    let file = File::create(&unfinished).with_context(writing).or_exit(Exit::CannotCreate)?;
    let remover = Remover(Some(unfinished));
    let mut out = BufWriter::new(file);
    write(store, task, &mut out).await.map_err(|mut failure| {
        failure.error = failure.error.context(writing());
        failure
    })?;
    let saved = out.into_inner().map_err(io::IntoInnerError::into_error);
    let saved = saved.and_then(|file| file.sync_all()).and_then(|()| remover.rename(path));
    saved.with_context(writing).or_exit(Exit::Io)
}

/// A file that is removed unless it gets its final name.
struct Remover(Option<PathBuf>);

impl Remover {
    fn rename(mut self, path: &Path) -> io::Result<()> {
        if let Some(unfinished) = &self.0 {
            std::fs::rename(unfinished, path)?;
            self.0 = None;
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Remover {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _gone_or_not_removable = std::fs::remove_file(path);
        }
    }
}
