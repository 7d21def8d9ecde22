//! Panics, caught: one is a fault of the program, and no reason for everything else to end.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

/// Runs a task to its end; the words of its panic if it had one. What it held is dropped, as at any other end.
///
/// # Errors
///
/// When the task panicked.
pub async fn caught<T>(task: impl Future<Output = T>) -> Result<T, String> {
    let mut task = pin!(task);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(end)) => Poll::Ready(Ok(end)),
        Err(panic) => Poll::Ready(Err(words(&*panic))),
    })
    .await
}

/// What a panic said, at most 300 characters of it.
#[must_use]
pub fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    text.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_with_its_words() {
        assert_eq!(caught(async { 1 }).await, Ok(1));
        let broken = async {
            tokio::task::yield_now().await;
            panic!("on {}", "purpose")
        };
        assert_eq!(caught::<()>(broken).await, Err("on purpose".to_owned()));
    }
}
