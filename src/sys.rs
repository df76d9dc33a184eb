//! The one file where `unsafe` may stand: the few system calls that neither `std` nor `nix` wrap safely, each behind
//! a safe function that says why it is one. 160 lines at most, comments not counted.
#![allow(unsafe_code)]

use nix::sys::mman::{MapFlags, ProtFlags};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::Pid;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Whether descriptor 2 was an inet socket when this program started. It is /dev/null since.
pub fn client_was_on_stderr() -> bool {
    CLIENT_ON_STDERR.load(Ordering::Relaxed)
}
static CLIENT_ON_STDERR: AtomicBool = AtomicBool::new(false);

/// Runs before std makes itself ready for `main`, for std writes to descriptor 2 when memory is too short for that.
#[used]
// SAFETY: the C library calls every function that stands in this section, once, before main and with no other thread.
#[unsafe(link_section = ".init_array")]
static BEFORE_STD: extern "C" fn() = before_std;

extern "C" fn before_std() {
    // SAFETY: zeroes are a sockaddr_storage, of which getsockname writes `length` octets; nothing here needs std.
    unsafe {
        let mut name: libc::sockaddr_storage = std::mem::zeroed();
        let mut length = size_of_val(&name) as libc::socklen_t;
        let is_socket = libc::getsockname(2, (&raw mut name).cast(), &raw mut length) == 0;
        if !is_socket || ![libc::AF_INET, libc::AF_INET6].contains(&i32::from(name.ss_family)) {
            return;
        }
        CLIENT_ON_STDERR.store(true, Ordering::Relaxed);
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        libc::dup2(null, 2);
        libc::close(null);
    }
}

/// std asks at every start where the stack ends, to call a fault beyond it by its name; the C library reads /proc/self/maps
/// for the answer, a tenth of what an empty program costs. Without an answer the program ends by the same signal.
// SAFETY: the C library's function of this name may fail with any number; nothing of ours calls it.
#[unsafe(no_mangle)]
extern "C" fn pthread_getattr_np(_: libc::pthread_t, _: *mut libc::pthread_attr_t) -> libc::c_int {
    libc::ENOSYS
}

/// Forks; the child runs `child` and ends with the status it gives. Gives the parent the child's process id. The child
/// starts with the signals of servers at their defaults and nothing blocked: a session is no accept loop.
pub fn fork(child: impl FnOnce() -> u8) -> nix::Result<Pid> {
    fork_with(&SigSet::empty(), child)
}

/// The same, with these signals blocked in the child: never not, where they are blocked here.
pub fn fork_with(blocked: &SigSet, child: impl FnOnce() -> u8) -> nix::Result<Pid> {
    unsafe extern "C" {
        /// fork without its handlers (POSIX.1-2024): they are for threads, and write to three pages on both sides.
        fn _Fork() -> libc::pid_t;
        static __libc_single_threaded: libc::c_char;
    }
    // SAFETY: no program of ours ever starts a thread, so no lock can be held by one that is not there in the child,
    // and the child may do whatever the parent may. Where tests have threads, the handlers see to locks.
    match nix::Error::result(unsafe { if __libc_single_threaded == 0 { libc::fork() } else { _Fork() } })? {
        0 => {
            default_signals(blocked);
            // SAFETY: cannot fail. An exit would only tidy up memory, each page of which is first copied for that.
            unsafe { libc::_exit(i32::from(child())) }
        }
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Blocks these signals and no others, and sets those that servers catch back to their defaults.
pub fn default_signals(blocked: &SigSet) {
    let _ = blocked.thread_set_mask();
    for caught in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD, Signal::SIGUSR1, Signal::SIGALRM] {
        let _ = set(caught, SigHandler::SigDfl);
    }
}

/// Makes a program start with these signals blocked and SIGXFSZ at its default, and less nice than we are by so much.
pub fn start_as_we_were(command: &mut std::process::Command, blocked: SigSet, niceness: i32) {
    let prepare = move || {
        let _ = set(Signal::SIGXFSZ, SigHandler::SigDfl);
        Ok(blocked.thread_set_mask().map(|()| _ = renice(-niceness))?)
    };
    // SAFETY: between fork and exec only system calls are made, which are async-signal-safe and allocate nothing.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, prepare) };
}

/// Adds to the niceness of this process, as far as it may, and gives how much that was.
pub fn renice(delta: i32) -> i32 {
    // SAFETY: system calls that get a number.
    let [before, _, now] = if delta == 0 { [0; 3] } else { unsafe { [0, delta, 0].map(|delta| libc::nice(delta)) } };
    now - before
}

/// Ignores a signal: SIGXFSZ, so that a file over RLIMIT_FSIZE is an error of write and not the end of the process.
pub fn ignore(which: Signal) {
    let _ = set(which, SigHandler::SigIgn);
}

/// For what is no handler of ours.
fn set(which: Signal, action: SigHandler) -> nix::Result<SigHandler> {
    // SAFETY: neither "ignore" nor the default is a function of ours that could run at a wrong time.
    unsafe { signal(which, action) }
}

/// Standard input and output, which std keeps open, without the buffers of std's own handles: 9 kB that no server uses.
pub fn stdio() -> [BorrowedFd<'static>; 2] {
    // SAFETY: nobody closes them; where another file is put there it is the one that is meant.
    unsafe { [BorrowedFd::borrow_raw(0), BorrowedFd::borrow_raw(1)] }
}

/// Takes a descriptor that whoever started us left open (`LISTEN_FDS`, a notification descriptor), or the kernel gave us
/// in a packet. Nothing if it is not open. To be called once for a number: the caller becomes its owner.
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl on a number that is no descriptor only fails; what is open above 2 has no owner in this program.
    unsafe { (number > 2 && libc::fcntl(number, libc::F_GETFD) >= 0).then(|| OwnedFd::from_raw_fd(number)) }
}

/// Removes a variable from our environment, and so from that of the programs we start.
pub fn forget_variable(name: &str) {
    // SAFETY: no program of ours ever starts a thread, so nobody reads the environment meanwhile.
    unsafe { std::env::remove_var(name) };
}

/// Closes every descriptor from `first` to `last`. Only for a child that is about to exec or that owns none of them.
pub fn close_between(first: u32, last: u32) {
    // SAFETY: callers hold no OwnedFd there that they will use again.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Memory of so many words, all 0, that the children forked from now on share with us. It is never given back.
pub fn shared_words(count: usize) -> nix::Result<&'static [AtomicU64]> {
    let length = std::num::NonZeroUsize::new(count.saturating_mul(size_of::<AtomicU64>())).ok_or(nix::Error::EINVAL)?;
    let (access, kind) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE);
    // SAFETY: a new mapping of zeroed pages, aligned to a page, never unmapped; others who see it use atomics too.
    unsafe {
        let start = nix::sys::mman::mmap_anonymous(None, length, access, kind)?;
        Ok(std::slice::from_raw_parts(start.as_ptr().cast(), count))
    }
}

/// Has the disk begin with so many octets of a file, and does not wait for it. Where that cannot be, nothing is done.
pub fn begin_writing(file: BorrowedFd<'_>, from: i64, length: i64) {
    // SAFETY: a system call that gets numbers; the descriptor is open.
    unsafe { libc::sync_file_range(file.as_raw_fd(), from, length, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Gives memory back to the system that was used for a while only, and lies between what is used still.
pub fn give_memory_back() {
    // SAFETY: a function of the C library's allocator, which is ours, without conditions.
    unsafe { libc::malloc_trim(0) };
}

/// Seconds east of UTC at a time, by the zone of this machine.
pub fn offset_from_utc(unix_time: i64) -> i64 {
    // SAFETY: both pointers are to live values of the right type; localtime_r keeps neither. TZ is not changed by us.
    unsafe {
        let mut broken_down: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&unix_time, &mut broken_down).is_null() { 0 } else { broken_down.tm_gmtoff }
    }
}

/// Hashes a password by the method and salt of `setting` (crypt(5)); nothing where libxcrypt cannot.
pub fn crypt(password: &[u8], setting: &str) -> Option<Vec<u8>> {
    use libc::{c_char, c_int, c_void};
    type CryptRn = unsafe extern "C" fn(*const c_char, *const c_char, *mut c_void, c_int) -> *mut c_char;
    const SIZE: c_int = 32_768; // sizeof(struct crypt_data) of libxcrypt, part of its ABI.
    let (password, setting) = (CString::new(password).ok()?, CString::new(setting).ok()?);
    let mut data = vec![0_u64; SIZE as usize / 8];
    // SAFETY: the library is never closed, and its crypt_rn is the function that crypt(3) describes; a null pointer is
    // nothing. Both strings end in NUL, `data` is SIZE octets and aligned for anything; the result points into it.
    unsafe {
        // Loaded when a password is to be checked that way: a session without one need not pay for it at its start.
        let libraries = [c"libcrypt.so.1", c"libcrypt.so.2"].into_iter();
        let library = libraries.map(|name| libc::dlopen(name.as_ptr(), libc::RTLD_NOW)).find(|it| !it.is_null())?;
        let function = libc::dlsym(library, c"crypt_rn".as_ptr());
        let crypt_rn = std::mem::transmute::<*mut c_void, Option<CryptRn>>(function)?;
        let hash = crypt_rn(password.as_ptr(), setting.as_ptr(), data.as_mut_ptr().cast(), SIZE);
        if hash.is_null() { None } else { Some(CStr::from_ptr(hash).to_bytes().to_vec()) }
    }
}

/// A read lease (fcntl(2), F_SETLEASE): granted only while nobody has the file open for writing. Released when dropped.
#[derive(Debug)]
pub struct Lease(OwnedFd);

impl Lease {
    /// Takes it; `EAGAIN` if the file is open for writing somewhere.
    pub fn take(file: &impl std::os::fd::AsFd) -> nix::Result<Lease> {
        let fd = file.as_fd().try_clone_to_owned().map_err(|_| nix::Error::EMFILE)?;
        ignore(Signal::SIGIO); // It would end us when somebody opens the file.
        // SAFETY: the descriptor is ours, and the call changes nothing but the lease.
        nix::Error::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) })?;
        Ok(Lease(fd))
    }

    /// Whether still nobody opened the file for writing, nor waits to.
    pub fn holds(&self) -> bool {
        // SAFETY: only asks.
        unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETLEASE) == libc::F_RDLCK }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // SAFETY: as in `take`.
        unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    }
}
