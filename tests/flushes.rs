//! What a message costs a disk: how often its cache is flushed before the message is acknowledged. Counted by the kernel,
//! not timed.
//!
//! The queue lies on an ext4 of its own, on a loop device over a file in the build folder: not in memory, where a flush
//! takes no time and nobody could share one. Needs root, losetup and e2fsprogs, like the power cuts.

#[path = "powercut/disk.rs"]
#[allow(dead_code)]
mod disk;

use disk::{Device, Kind, Mount, withdraw};
use doorpost::message::path::{Address, ReversePath};
use doorpost::queue::{Head, Queue};
use std::fs;
use std::path::Path;

/// Messages one after another; enough for each of the queue's folders to have been made.
const ALONE: u32 = 300;

/// Who sends at once, and how much each.
const AT_ONCE: usize = 32;
const EACH: u32 = 20;

fn put_one(queue: &Queue) {
    let mut draft = queue.begin().expect("a draft");
    draft.content(b"Subject: lunch\n\nAt one?\n").expect("content");
    draft.recipient(&Address::from_internal(b"bob@mx.example").expect("an address")).expect("a recipient");
    let trace = b"Received: by mx.example\n".to_vec();
    draft.commit(&Head { reverse_path: ReversePath::NULL, trace, channel: "local".into() }).expect("on disk");
}

/// Flush requests that the device has completed (Documentation/block/stat.rst, field 16).
fn flushes(device: &Device) -> u32 {
    let stat = Path::new("/sys/block").join(device.name()).join("stat");
    let text = fs::read_to_string(stat).expect("the statistics of a block device");
    text.split_whitespace().nth(15).and_then(|field| field.parse().ok()).expect("a count of flushes")
}

#[test]
fn a_message_alone_costs_two_flushes_and_a_half_at_most_and_among_many_less_than_one() {
    withdraw();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (image, at) = (folder.path().join("image"), folder.path().join("disk"));
    fs::create_dir(&at).expect("a mount point");
    Kind::Ext4.make(&image);
    let device = Device::new(&image);
    let _mount = Mount::new(Kind::Ext4, &device, &at).expect("an ext4");
    let queue = Queue::open(&at.join("queue")).expect("a queue");

    (0..ALONE).for_each(|_| put_one(&queue));
    let before = flushes(&device);
    (0..ALONE).for_each(|_| put_one(&queue));
    let alone = flushes(&device) - before;
    assert!(alone > ALONE, "{alone} flushes for {ALONE} messages: the rig does not count");
    assert!(alone * 2 <= ALONE * 5, "{alone} flushes for {ALONE} messages one after another");

    let before = flushes(&device);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| (0..EACH).for_each(|_| put_one(&queue)));
        }
    });
    let (together, messages) = (flushes(&device) - before, EACH * AT_ONCE as u32);
    assert!(together < messages, "{together} flushes for {messages} messages from {AT_ONCE} at once");
}
