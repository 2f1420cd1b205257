//! Tests of the local runtime's folders and processes.
