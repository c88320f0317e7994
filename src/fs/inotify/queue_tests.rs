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
