//! Steps that go on from each other on one thread, and not one within another.
//!
//! A completion begins the next request. Where that is refused at once, its completion is
//! called before the first has returned, and so on for all who wait: a stack that grows
//! with them. A step that comes within another one waits for its end here instead.

use std::cell::RefCell;
use std::collections::VecDeque;

type Step = Box<dyn FnOnce()>;

thread_local! {
    /// The steps that wait for the one that runs, if one does.
    static WAITING: RefCell<Option<VecDeque<Step>>> = const { RefCell::new(None) };
}

/// Runs a step and those that come of it; within one it waits for that to end.
pub fn run(step: impl FnOnce() + 'static) {
    let is_within = WAITING.with_borrow(Option::is_some);
    if is_within {
        let step = Box::new(step);
        return WAITING.with_borrow_mut(|waiting| waiting.get_or_insert_default().push_back(step));
    }
    WAITING.set(Some(VecDeque::new()));
    let running = Running;
    step();
    while let Some(next) =
        WAITING.with_borrow_mut(|waiting| waiting.as_mut().and_then(VecDeque::pop_front))
    {
        next();
    }
    drop(running);
}

/// Ends the steps of a thread, even by a panic.
struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        // What a step holds may run code as it is dropped.
        drop(WAITING.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::panic::{self, AssertUnwindSafe};
    use std::rc::Rc;

    #[test]
    fn a_step_within_another_comes_after_it() {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let note = |number| {
            let seen = Rc::clone(&seen);
            move || seen.borrow_mut().push(number)
        };
        let (first, second, third) = (note(1), note(2), note(3));
        run(move || {
            run(move || {
                run(third);
                second();
            });
            first();
        });
        assert_eq!(*seen.borrow(), [1, 2, 3]);
    }

    #[test]
    fn any_number_of_steps_go_on_from_each_other() {
        fn count_down(from: u32, left: Rc<Cell<u32>>) {
            left.set(from);
            if from > 0 {
                run(move || count_down(from - 1, left));
            }
        }
        let left = Rc::new(Cell::new(u32::MAX));
        let its = Rc::clone(&left);
        run(move || count_down(1_000_000, its));
        assert_eq!(left.get(), 0);
    }

    #[test]
    fn a_panic_ends_the_steps_of_the_thread_and_no_later_ones() {
        let ends = || run(|| panic!("a part of a test"));
        panic::catch_unwind(AssertUnwindSafe(ends)).expect_err("it panics");
        let done = Rc::new(Cell::new(false));
        let its = Rc::clone(&done);
        run(move || its.set(true));
        assert!(done.get());
    }
}
