//! Crash points: places at which a test lets the process die without warning,
//! to show that what was committed is resumed and nothing is repeated.
//!
//! Only a build with the `crash-points` feature has them, and that feature
//! refuses to be part of a release build.

#[cfg(all(feature = "crash-points", not(debug_assertions)))]
compile_error!("crash-points is for tests: it cannot be part of a release build");

/// Where to die: `PLACE:SUBJECT[:COUNT]`, as given to `--crash-at`.
#[cfg(feature = "crash-points")]
static PLAN: std::sync::OnceLock<std::sync::Mutex<Option<(String, String, u32)>>> = std::sync::OnceLock::new();

/// Sets where to die. The subject matches by prefix.
#[cfg(feature = "crash-points")]
pub fn plan(text: &str) {
    let mut words = text.splitn(3, ':');
    let place = words.next().unwrap_or_default().to_owned();
    let subject = words.next().unwrap_or_default().to_owned();
    let count = words.next().and_then(|count| count.parse().ok()).unwrap_or(1);
    let _ = PLAN.set(std::sync::Mutex::new(Some((place, subject, count))));
}

/// Dies here when a test asked for it.
#[cfg(feature = "crash-points")]
pub fn point(place: &str, subject: &str) {
    let Some(plan) = PLAN.get() else { return };
    let Ok(mut plan) = plan.lock() else { return };
    let Some((at, of, count)) = plan.as_mut() else { return };
    if at == place && subject.starts_with(of.as_str()) {
        *count -= 1;
        if *count == 0 {
            // As kill -9 would: nothing is flushed, nothing is unwound.
            std::process::abort();
        }
    }
}

/// Does nothing: this build has no crash points.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn point(_place: &str, _subject: &str) {}
