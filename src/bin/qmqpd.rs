//! qmqpd
fn main() {}
