//! Allocations grow in proportion to the work. `cargo bench --bench growth` counts instructions.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

#[path = "../benches/growth/cases.rs"]
mod cases;

/// An allocator that counts the allocations of each thread.
struct Counting;

thread_local! {
    /// Number of allocations, and of allocated octets.
    static ALLOCATED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

// SAFETY: all calls are forwarded to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _gone_at_the_end = ALLOCATED.try_with(|allocated| {
            let (times, octets) = allocated.get();
            allocated.set((times + 1, octets + layout.size()));
        });
        // SAFETY: as for this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, there: *mut u8, layout: Layout) {
        // SAFETY: as for this function.
        unsafe { System.dealloc(there, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocated(work: fn(usize), n: usize) -> (usize, usize) {
    let (times, octets) = ALLOCATED.get();
    work(n);
    let (more_times, more_octets) = ALLOCATED.get();
    (more_times - times, more_octets - octets)
}

#[test]
fn allocations_grow_linearly() {
    for (name, n, work) in cases::CASES {
        work(1); // builds what is built only once
        let (few, many) = (allocated(*work, *n), allocated(*work, 8 * n));
        // Eight times as much, plus half of that for buffers that double in size.
        assert!(many.0 <= 12 * few.0, "{name}: {few:?} for {n}, {many:?} for {}", 8 * n);
        assert!(many.1 <= 12 * few.1, "{name}: {few:?} for {n}, {many:?} for {}", 8 * n);
    }
}
