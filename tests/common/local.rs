//! submit under its other names, as people and programs of this machine run it, and the drop folder.

use super::{Scratch, feed};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// submit under a name.
pub fn named(scratch: &Scratch, name: &str, arguments: &[&str]) -> Command {
    let mut command = scratch.command("submit");
    command.arg0(format!("/usr/sbin/{name}")).args(arguments);
    command
}

pub fn sendmail(scratch: &Scratch, arguments: &[&str], input: &str) -> Output {
    feed(&mut named(scratch, "sendmail", arguments), input.as_bytes())
}

pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The drop folder, as the administrator makes it.
pub fn drop_folder(scratch: &Scratch) -> PathBuf {
    let folder = scratch.path().join("drop");
    fs::create_dir(&folder).unwrap();
    scratch.hand_over(&folder);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1733)).unwrap();
    folder
}

pub const USER: u32 = 12_345;

pub fn as_user(mut command: Command) -> Command {
    command.uid(USER).gid(USER);
    command
}

/// Files in the drop folder besides the FIFO.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    paths.filter(|path| !path.ends_with("trigger")).collect()
}
