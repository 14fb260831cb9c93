//! The process's share of the machine: memory, processor time, descriptors.

use crate::rlimit;
use nix::libc::{F_GETFD, fcntl};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};
use std::fs::{metadata, read_to_string};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::Instant;

/// The number of descriptors that are looked at without a pause: they take less than a millisecond.
const CHUNK: usize = 1024;
/// The time for which a count of descriptors holds.
const COUNT_HOLDS: Duration = Duration::from_secs(10);

/// The last count of descriptors, and when it began.
static COUNTED: Mutex<Option<(Instant, u64)>> = Mutex::new(None);

/// The memory, the processor time and the descriptors of the process at one moment, under the names of the metrics (`process_…`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// The memory that is in the machine's RAM.
    pub resident_memory_bytes: u64,
    /// The address space, most of which is no memory.
    pub virtual_memory_bytes: u64,
    /// The processor time of all threads since the start.
    pub cpu_seconds: f64,
    /// The descriptors that are open.
    pub open_fds: u64,
    /// The most descriptors.
    pub max_fds: u64,
}

impl Process {
    /// Asks the system; `None` where `/proc` is not mounted. Never waits for a disk.
    pub(crate) async fn now() -> Option<Self> {
        let pages = read_to_string("/proc/self/statm").ok()?;
        let mut pages = pages.split(' ').map_while(|number| number.parse::<u64>().ok());
        let page = sysconf(SysconfVar::PAGE_SIZE).ok()??.try_into().unwrap_or(4096);
        Some(Self {
            virtual_memory_bytes: pages.next()? * page,
            resident_memory_bytes: pages.next()? * page,
            cpu_seconds: cpu_time().as_secs_f64(),
            open_fds: open_fds().await?,
            max_fds: rlimit::open_files() as u64,
        })
    }
}

/// Returns the number of open descriptors.
///
/// Linux 6.2 and later tell it as the size of a directory, in microseconds. Elsewhere each descriptor is looked at, which takes up to
/// 0.1 s for 131,072: so with pauses for the relay, and not at every call. To list the directory would take up to 0.7 s for as many, and
/// leave 100 MB of the kernel's memory that count as the service's.
async fn open_fds() -> Option<u64> {
    let size = metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return Some(size);
    }
    let counted = || COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let (last, began) = (*counted(), Instant::now());
    if let Some((_, count)) = last.filter(|(at, _)| at.elapsed() < COUNT_HOLDS) {
        return Some(count);
    }
    // Requests that come during the count get the last one.
    *counted() = last.map(|(_, count)| (began, count));
    let count = count_fds(table_size()?).await;
    *counted() = Some((began, count));
    Some(count)
}

/// Returns a number that is above every descriptor: the size of the process's table.
fn table_size() -> Option<usize> {
    let status = read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("FDSize:"))?.trim().parse().ok()
}

/// Counts the open descriptors below `end`.
async fn count_fds(end: usize) -> u64 {
    let mut count = 0;
    for fd in 0..end {
        if fd % CHUNK == CHUNK - 1 {
            yield_now().await;
        }
        let Ok(fd) = i32::try_from(fd) else { break };
        #[expect(unsafe_code, reason = "the safe calls take open descriptors only")]
        // SAFETY: the call reads the flags of a descriptor, and fails if it is not open (`fcntl(2)`).
        let is_open = unsafe { fcntl(fd, F_GETFD) } != -1;
        count += u64::from(is_open);
    }
    count
}

/// Returns the processor time of all threads since the start.
pub(crate) fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Returns the time since the process's start, also that during which the machine was suspended; 0 without `/proc`.
pub(crate) fn age() -> Duration {
    let age = || {
        let started = started(&read_to_string("/proc/self/stat").ok()?)?;
        let hertz = u32::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok().filter(|hertz| *hertz > 0)?;
        let (seconds, ticks) = (started / u64::from(hertz), started % u64::from(hertz));
        let started = Duration::from_secs(seconds) + Duration::from_secs(ticks) / hertz;
        Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?).checked_sub(started)
    };
    age().unwrap_or_default()
}

/// Returns the start in ticks since the machine's start (`proc_pid_stat(5)`).
fn started(stat: &str) -> Option<u64> {
    // The second field, the name of the program, may have spaces and parentheses in it. The start is the 22nd.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    /// Other tests of this process open and close descriptors meanwhile, but not as many.
    #[tokio::test]
    async fn both_ways_count_the_descriptors() {
        const MANY: u64 = 3000;
        rlimit::raise_open_files();
        let directory_counts = metadata("/proc/self/fd").unwrap().len() > 0;
        let both = || async { [count_fds(table_size().unwrap()).await, open_fds().await.unwrap()] };
        let before = both().await;
        let files: Vec<_> = (0..MANY).map(|_| File::open("/dev/null").unwrap()).collect();
        let after = both().await;
        drop(files);
        for way in 0..if directory_counts { 2 } else { 1 } {
            assert!(after[way].abs_diff(before[way] + MANY) < MANY / 10, "{before:?} {after:?}");
        }
    }

    #[test]
    fn the_start_is_in_the_past_and_its_field_is_found_after_any_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(started(stat), Some(4711));
        assert_eq!(started("7 (a) S 1"), None);
        // The process began before this test, and not in the last tick.
        std::thread::sleep(Duration::from_millis(50));
        assert!((Duration::from_millis(40)..Duration::from_secs(24 * 3600)).contains(&age()), "{:?}", age());
    }
}
