//! How the programs are linked: each connection is a process, and pays for it.
//!
//! libgcc_s is linked statically, where that can be done: one library less to find, map and relocate at each start. Rust's
//! standard library asks the linker for `-lgcc_s`. A linker script of that name in front of all other folders names the static
//! halves of it instead, as `gcc -static-libgcc` does for C. Where gcc has none (another compiler, another system, a cross
//! build) nothing is changed, and the programs need libgcc_s.so.1 as every Rust program does.

// That is how a build script speaks to cargo.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let of = |name: &str| env::var(name).unwrap_or_default();
    let is_glibc = of("CARGO_CFG_TARGET_OS") == "linux" && of("CARGO_CFG_TARGET_ENV") == "gnu";
    if is_glibc && of("CARGO_CFG_TARGET_ARCH") == "x86_64" {
        // What the loader writes to begins with a page of its own: two pages less of each process, for a few kB of file. It
        // is an option of lld, which links there.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,separate-loadable-segments");
    }
    let is_static = of("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static");
    if !is_glibc || is_static || of("HOST") != of("TARGET") || !has("libgcc_eh.a") || !has("libgcc.a") {
        return;
    }
    let folder = of("OUT_DIR");
    let script = Path::new(&folder).join("libgcc_s.so");
    if fs::write(script, "INPUT(-l:libgcc_eh.a -l:libgcc.a)\n").is_ok() {
        println!("cargo::rustc-link-search=native={folder}");
    }
}

/// Whether the compiler that links knows such a library; for one that it does not know it repeats the bare name.
fn has(library: &str) -> bool {
    let linker = env::var("RUSTC_LINKER").unwrap_or_else(|_| "cc".to_owned());
    let output = Command::new(linker).arg(format!("-print-file-name={library}")).output();
    output.is_ok_and(|output| {
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success() && Path::new(&path).is_absolute() && Path::new(&path).is_file()
    })
}
