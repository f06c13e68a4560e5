//! The programs that run tasks: what `oracle task-load` submits and `oracle task-check` expects.
//!
//! Each notes in the file `runs` that it began: `ID ATTEMPT PID`, the process being the worker's.

use std::fs;
use std::io;
use std::path::Path;

/// Where programs note that they began.
pub(crate) const RUNS: &str = "runs";

/// Kind, seconds that it may take, and what it does after its first line of stdin is read.
const PROGRAMS: [(&str, u64, &str); 5] = [
    ("slow", 60, r#"sleep "$size"; printf 'slow %s %s' "$TASK_ID" "$TASK_ATTEMPT""#),
    (
        "moody",
        60,
        r#"if mkdir "moods/$TASK_ID"; then exit 1; fi
printf 'moody %s %s' "$TASK_ID" "$TASK_ATTEMPT""#,
    ),
    ("large", 60, r#"yes "$TASK_ID" | head -c "$size""#),
    ("poison", 60, r#"if [ $((TASK_ATTEMPT % 2)) = 0 ]; then kill -9 $$; fi; exit 3"#),
    ("stuck", 1, "sleep 5"),
];

/// Writes them into `directory`, in which the workers run.
pub(crate) fn write(directory: &Path) -> io::Result<()> {
    fs::create_dir(directory.join("moods"))?;
    fs::write(directory.join(RUNS), "")?;
    for (kind, _, program) in PROGRAMS {
        let begin = format!(r#"printf '%s %s %s\n' "$TASK_ID" "$TASK_ATTEMPT" "$PPID" >>{RUNS}"#);
        fs::write(directory.join(kind), format!("read -r size\n{begin}\n{program}\n"))?;
    }
    Ok(())
}

/// The setting that names them. Each is read by the worker's own shell, whose parent is the worker.
pub(crate) fn settings() -> String {
    PROGRAMS.map(|(kind, seconds, _)| format!("{kind}:{seconds}=. ./{kind}")).join("\n")
}
