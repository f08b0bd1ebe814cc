//! What the kernel says of this process, under the names that every program
//! gives it.

use crate::names;
use crate::page::Page;

/// Bytes of a page; every kernel that runs KVM hosts of ours has these.
fn page_bytes() -> f64 {
    rustix::param::page_size() as f64
}

/// Puts what can be read; what cannot is left out.
pub(crate) fn put(page: &mut Page) {
    if let Some((cpu, start, memory)) = stat() {
        page.put(names::PROCESS_CPU, &[], cpu);
        page.put(names::PROCESS_MEMORY, &[], memory);
        if let Some(booted) = booted() {
            page.put(names::PROCESS_START, &[], booted + start);
        }
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        page.count(names::PROCESS_OPEN_FDS, &[], open.count());
    }
    if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        page.put(names::PROCESS_MAX_FDS, &[], most as f64);
    }
}

/// CPU seconds, start in seconds after the kernel's, bytes of memory.
fn stat() -> Option<(f64, f64, f64)> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |at: usize| fields.get(at)?.parse::<f64>().ok();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    Some(((field(11)? + field(12)?) / ticks, field(19)? / ticks, field(21)? * page_bytes()))
}

/// When the kernel started, in seconds of wall time.
fn booted() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_files_and_a_start() {
        let mut page = Page::default();
        put(&mut page);
        assert_eq!(page.names().count(), 5, "{page:?}");
        let (_, start, memory) = stat().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - booted().unwrap() - start;
        assert!((-2.0..3600.0).contains(&age) && memory > 1_000_000.0, "{age} {memory}");
    }
}
