//! What is allocated grows in proportion to what there is to do. `cargo bench --bench growth` counts instructions.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

#[path = "../benches/growth/cases.rs"]
mod cases;

/// Counts what each thread allocates.
struct Counting;

thread_local! {
    /// How often, and how many octets.
    static ALLOCATED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _gone_at_the_end = ALLOCATED.try_with(|allocated| {
            let (times, octets) = allocated.get();
            allocated.set((times + 1, octets + layout.size()));
        });
        // SAFETY: as of this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, there: *mut u8, layout: Layout) {
        // SAFETY: as of this function.
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
fn allocations_grow_in_proportion() {
    for (name, n, work) in cases::CASES {
        work(1); // what is built once is built
        let (few, many) = (allocated(*work, *n), allocated(*work, 8 * n));
        // Eight times, and half of that again for room that doubles.
        assert!(many.0 <= 12 * few.0, "{name}: {few:?} for {n}, {many:?} for {}", 8 * n);
        assert!(many.1 <= 12 * few.1, "{name}: {few:?} for {n}, {many:?} for {}", 8 * n);
    }
}
