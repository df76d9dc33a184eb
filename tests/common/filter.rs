//! A filter for mail.

use super::{Scratch, binary, write_program};
use std::fs;
use std::os::unix::fs::symlink;

/// Makes `scratch`/filter a program that lets mail through to `qmail-queue`, marked, but for what says "virus" or "later".
pub fn filter_of(scratch: &Scratch) -> String {
    let sbin = scratch.path().join("sbin");
    fs::create_dir(&sbin).expect("a folder");
    symlink(binary("submit"), sbin.join("qmail-queue")).expect("a link");
    let (filter, count) = (scratch.path().join("filter"), scratch.path().join("count"));
    // deliver hands no environment on.
    let script = format!(
        "#!/bin/sh\nexport MAIL_CONFIG={config}\necho \"$TCPREMOTEIP\" >>{count}\ntext=$(mktemp)\ncat >$text\n\
         if grep -q virus $text; then rm $text; exit 31; fi\nif grep -q later $text; then rm $text; exit 75; fi\n\
         {{ echo 'X-Scanned: yes'; cat $text; }} | {sbin}/qmail-queue\nstatus=$?\nrm $text\nexit $status\n",
        config = scratch.path().display(),
        count = count.display(),
        sbin = sbin.display()
    );
    write_program(&filter, &script);
    scratch.hand_over(scratch.path());
    filter.display().to_string()
}

/// How often the filter has run.
pub fn runs(scratch: &Scratch) -> usize {
    fs::read_to_string(scratch.path().join("count")).unwrap_or_default().lines().count()
}
