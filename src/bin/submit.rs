//! submit
fn main() {}
