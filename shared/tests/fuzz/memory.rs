//! How much memory a call takes, by an allocator that counts for each thread.
#![expect(unsafe_code, reason = "an allocator cannot be written without; it only counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    /// Bytes held now, and at most since the last reset.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(by: isize) {
    // Not at a thread's very end, when it has no locals any more.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + by, most.max(now + by)));
    });
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: likewise.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Runs `call` and answers with it the most bytes that it held at once.
pub fn most<T>(call: impl FnOnce() -> T) -> (T, usize) {
    HELD.with(|held| held.set((0, 0)));
    let answer = call();
    (answer, HELD.with(|held| held.get().1.max(0) as usize))
}

#[test]
fn what_is_held_at_once_is_counted() {
    let (_, most) = most(|| {
        drop(vec![0u8; 1_000_000]);
        vec![0u8; 10]
    });
    assert!((1_000_000..1_001_000).contains(&most), "{most}");
}
