//! The queue of changes to replay.

use super::*;

/// While the thread is held up, a caller that writes repeatedly takes bounded memory and waits for a bounded time.
#[test]
fn those_who_wait_in_vain_leave_a_bounded_queue() {
    let replays = Replays::default();
    replays.queue.lock().has_taker = true;
    for _ in 1..QUEUED_TASKS_MAX {
        replays.push(ReplayTask::Everything);
    }
    for _ in 0..3 {
        replays.await_file_invalidation(0, 1, true);
    }
    assert_eq!(replays.queue.lock().tasks.len(), QUEUED_TASKS_MAX);
}

#[test]
fn changes_are_finished_after_the_tasks_before_them() {
    let replays = Replays::default();
    assert!(!replays.finish_later(1), "nobody takes tasks");
    replays.queue.lock().has_taker = true;
    assert!(!replays.finish_later(1));
    replays.push(ReplayTask::Everything);
    assert!(replays.finish_later(2) && replays.finish_later(3));
    assert!(matches!(replays.next(), ReplayTask::Everything));
    assert!(replays.finish_later(4), "the task may not be done");
    assert!(matches!(replays.next(), ReplayTask::Finish(4)));
    replays.push(ReplayTask::Everything);
    assert!(matches!(replays.next(), ReplayTask::Everything));
    assert!(replays.finish_later(5));
    assert!(matches!(replays.next(), ReplayTask::Finish(5)));
    assert!(replays.queue.lock().tasks.is_empty());
}
