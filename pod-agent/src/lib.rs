//! The process inside a session's pod.
