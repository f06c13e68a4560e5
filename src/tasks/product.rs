//! From how a run ended to what is said of it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::hand::Why;
use super::handler::{Ended, Job, Product, Run};
use super::spool::discard;
use super::supply::{Body, Done};
use crate::store::Millis;
use crate::task::{Outcome, RESULT_BYTES_MAX, ResultHead};

/// What is to be delivered of a run that has ended; `None` if nobody waits for it.
pub(super) fn done(
    job: &Job,
    run: &Run,
    ended: Ended,
    why: Option<Why>,
    (began_at_ms, at_ms): (Millis, Millis),
) -> Option<Done> {
    let (outcome, body) = match (ended, why) {
        (_, Some(Why::Lost)) => {
            discard(&run.result_path);
            return None;
        }
        (Ended::Finished(product), _) => match result(product, &run.result_path) {
            Ok((head, body)) => (Outcome::Finished(head), body),
            Err(error) => {
                let path = run.result_path.display();
                (failed(format!("the result in {path} cannot be read: {error}"), false), None)
            }
        },
        (_, Some(Why::TimedOut)) => {
            (failed(format!("it took longer than {} s", run.timeout.as_secs()), false), None)
        }
        (Ended::Failed { reason, is_final }, _) => (failed(reason, is_final), None),
        (Ended::Missed { reason }, _) => (Outcome::Missed { reason }, None),
        (Ended::Stopped, _) => (Outcome::Released, None),
    };
    let outcome = match outcome {
        Outcome::Finished(head) if head.bytes > RESULT_BYTES_MAX => failed(
            format!("a result has at most {RESULT_BYTES_MAX} bytes, and this one {}", head.bytes),
            true,
        ),
        other => other,
    };
    let body = body.filter(|_| matches!(outcome, Outcome::Finished(_)));
    if !matches!(body, Some(Body::File(_))) {
        discard(&run.result_path);
    }
    let (id, attempt, began_at_ms) = (job.id, job.attempt, Some(began_at_ms));
    Some(Done { id, attempt, outcome, body, began_at_ms, at_ms })
}

fn failed(reason: String, is_final: bool) -> Outcome {
    Outcome::Failed { reason, is_final }
}

fn result(product: Product, path: &Path) -> io::Result<(ResultHead, Option<Body>)> {
    let (bytes, head, body) = match product {
        Product::Bytes(whole) => {
            let head = whole.get(..ResultHead::BYTES_MAX).unwrap_or(&whole).to_vec();
            (whole.len() as u64, head, Body::Bytes(whole))
        }
        Product::File => {
            let file = File::open(path)?;
            let bytes = file.metadata()?.len();
            let mut head = Vec::new();
            file.take(ResultHead::BYTES_MAX as u64).read_to_end(&mut head)?;
            (bytes, head, Body::File(path.to_owned()))
        }
    };
    let head = ResultHead { bytes, head };
    let body = (!head.is_whole()).then_some(body);
    Ok((head, body))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::task::{Name, TaskId};

    fn job() -> Job {
        let kind: Name = "echo".parse().unwrap();
        Job { id: TaskId::new(), attempt: 2, kind, expires_at_ms: None, payload: Vec::new() }
    }

    fn outcome(run: &Run, ended: Ended, why: Option<Why>) -> Option<(Outcome, Option<Body>)> {
        done(&job(), run, ended, why, (0, 0)).map(|done| (done.outcome, done.body))
    }

    #[test]
    fn a_small_result_is_its_head_and_a_large_one_stays_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let run = Run::new(&dir.path().join("r"), Duration::from_secs(1));
        let finished = |product| outcome(&run, Ended::Finished(product), None).unwrap();
        let (small, none) = finished(Product::Bytes(b"42".to_vec()));
        assert_eq!(small, Outcome::Finished(ResultHead { bytes: 2, head: b"42".to_vec() }));
        assert_eq!(none, None);
        std::fs::write(&run.result_path, vec![b'1'; 3000]).unwrap();
        let (large, body) = finished(Product::File);
        let head = ResultHead { bytes: 3000, head: vec![b'1'; 1024] };
        assert_eq!(large, Outcome::Finished(head));
        assert_eq!(body, Some(Body::File(run.result_path.clone())));
        std::fs::write(&run.result_path, "7").unwrap();
        assert_eq!(finished(Product::File).1, None);
        assert!(!run.result_path.exists());
        let (missing, _) = finished(Product::File);
        assert!(matches!(missing, Outcome::Failed { is_final: false, .. }), "{missing:?}");
    }

    #[test]
    fn a_run_that_was_stopped_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let run = Run::new(&dir.path().join("r"), Duration::from_secs(7));
        assert_eq!(outcome(&run, Ended::Stopped, Some(Why::Lost)), None);
        let stopped = |why| outcome(&run, Ended::Stopped, Some(why)).unwrap().0;
        assert_eq!(stopped(Why::Stopping), Outcome::Released);
        let Outcome::Failed { reason, .. } = stopped(Why::TimedOut) else { panic!() };
        assert!(reason.contains("longer than 7 s"));
        let product = Product::Bytes(b"1".to_vec());
        let just_so = outcome(&run, Ended::Finished(product), Some(Why::TimedOut)).unwrap().0;
        assert!(matches!(just_so, Outcome::Finished(_)), "it was done all the same");
    }
}
