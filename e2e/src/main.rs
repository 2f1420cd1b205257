//! Tests and benchmarks from outside.
fn main() {}
