//! libvirt's event loop, and the callbacks that it calls.
#![allow(unsafe_code)] // The safe layer has no event registrations; each block says why it is sound.

use std::ffi::CStr;
use std::os::raw::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use virt::connect::Connect;
use virt::sys;

/// What libvirt tells unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Lifecycle {
        uuid: String,
        event: i32,
        detail: i32,
    },
    /// The guest was reset; it goes on in the same process.
    Rebooted {
        uuid: String,
    },
    /// libvirt and the guest's QEMU do not understand each other any more.
    ControlError {
        uuid: String,
    },
    /// Metadata or definition may have changed.
    MetadataChanged {
        uuid: String,
    },
    /// Memory is being copied: a migration away, or a save.
    Copying {
        uuid: String,
    },
    /// That job is over.
    JobCompleted {
        uuid: String,
    },
    /// The connection is gone.
    Closed {
        reason: i32,
    },
}

/// Where callbacks put what they copied.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    pub(super) events: mpsc::Sender<Event>,
    /// Something did not fit: only a whole list tells the truth now.
    pub(super) overflown: Arc<AtomicBool>,
}

impl Sink {
    fn send(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.overflown.store(true, Ordering::Relaxed);
        }
    }
}

/// Starts libvirt's event loop on a thread of its own, once per process, before any connection.
///
/// # Errors
/// libvirt's own message.
pub(super) fn start_loop() -> Result<(), String> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    STARTED
        .get_or_init(|| {
            // libvirt prints errors to stderr by default; ours go to the log.
            virt::error::clear_error_callback();
            virt::event::event_register_default_impl().map_err(|e| e.to_string())?;
            let run = || loop {
                if virt::event::event_run_default_impl().is_err() {
                    // It fails only where poll(2) does; the pause keeps a core from burning.
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
            };
            let thread = std::thread::Builder::new().name("libvirt-events".into());
            thread.spawn(run).map(drop).map_err(|e| e.to_string())
        })
        .clone()
}

/// Registrations on one connection. They hold a reference to it: take them back before the
/// connection is dropped, or it is never closed.
#[derive(Debug)]
pub(super) struct Registrations {
    callbacks: Vec<c_int>,
    close: bool,
}

/// Registers what this libvirt knows; what it does not know is left out.
pub(super) fn register(connection: &Connect, sink: &Sink) -> Registrations {
    type Generic = sys::virConnectDomainEventGenericCallback;
    // SAFETY: libvirt's interface takes every callback as the generic one and casts it back
    // by its event id; each function below has the signature documented for its id.
    let table: [(u32, Generic); 6] = unsafe {
        [
            (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, generic(lifecycle as *const c_void)),
            (sys::VIR_DOMAIN_EVENT_ID_REBOOT, generic(reboot as *const c_void)),
            (sys::VIR_DOMAIN_EVENT_ID_CONTROL_ERROR, generic(control_error as *const c_void)),
            (sys::VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, generic(metadata_change as *const c_void)),
            (sys::VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION, generic(migration_iteration as *const c_void)),
            (sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, generic(job_completed as *const c_void)),
        ]
    };
    let mut callbacks = Vec::new();
    for (id, callback) in table {
        let opaque = boxed(sink);
        // SAFETY: the connection is alive; `opaque` is a boxed Sink that `free` takes back, which
        // libvirt calls exactly once, when the registration ends. No domain: all of them.
        let registered = unsafe {
            sys::virConnectDomainEventRegisterAny(
                connection.as_ptr(),
                std::ptr::null_mut(),
                id as c_int,
                callback,
                opaque,
                Some(free),
            )
        };
        if registered < 0 {
            tracing::debug!("libvirt does not tell of event {id}: {}", virt::error::Error::last_error());
            // SAFETY: a registration that failed does not own the box.
            unsafe { free(opaque) };
        } else {
            callbacks.push(registered);
        }
    }
    let opaque = boxed(sink);
    // SAFETY: as above.
    let close =
        unsafe { sys::virConnectRegisterCloseCallback(connection.as_ptr(), Some(closed), opaque, Some(free)) } == 0;
    if !close {
        // SAFETY: as above.
        unsafe { free(opaque) };
    }
    Registrations { callbacks, close }
}

/// Takes the registrations back. May block as long as libvirt does.
pub(super) fn deregister(connection: &Connect, registrations: Registrations) {
    for callback in registrations.callbacks {
        // SAFETY: the connection is alive and the number came from it.
        unsafe { sys::virConnectDomainEventDeregisterAny(connection.as_ptr(), callback) };
    }
    if registrations.close {
        // SAFETY: this very function was registered on this connection.
        unsafe { sys::virConnectUnregisterCloseCallback(connection.as_ptr(), Some(closed)) };
    }
}

fn boxed(sink: &Sink) -> *mut c_void {
    Box::into_raw(Box::new(sink.clone())).cast()
}

/// # Safety
/// `function` must be an `extern "C"` function with the signature of its event id.
unsafe fn generic(function: *const c_void) -> sys::virConnectDomainEventGenericCallback {
    // SAFETY: function pointers of one ABI have one size; the caller vouches for the rest.
    Some(unsafe { std::mem::transmute::<*const c_void, unsafe extern "C" fn(_, _, _)>(function) })
}

/// Hands an event to the sink. A panic ends here: unwinding through C is undefined.
///
/// # Safety
/// `opaque` is a boxed Sink that is still registered; `domain` is valid during the callback.
unsafe fn tell(opaque: *mut c_void, domain: sys::virDomainPtr, event: impl FnOnce(String) -> Event) {
    let send = AssertUnwindSafe(|| {
        let mut text: [c_char; sys::VIR_UUID_STRING_BUFLEN as usize] = [0; _];
        // SAFETY: the domain is borrowed from libvirt for this call, and the buffer is of the
        // length that libvirt asks for.
        let read = unsafe { sys::virDomainGetUUIDString(domain, text.as_mut_ptr()) };
        if read == 0 {
            // SAFETY: libvirt ended the text with a zero within the buffer; opaque is a Sink.
            let (uuid, sink) = unsafe { (CStr::from_ptr(text.as_ptr()), &*opaque.cast::<Sink>()) };
            sink.send(event(uuid.to_string_lossy().into_owned()));
        }
    });
    if catch_unwind(send).is_err() {
        tracing::error!("a libvirt callback panicked");
    }
}

// SAFETY (all callbacks): called by libvirt on the event thread, with the boxed Sink given at
// registration and a domain that lives as long as the call.
unsafe extern "C" fn lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    unsafe { tell(opaque, domain, |uuid| Event::Lifecycle { uuid, event, detail }) };
    0
}

unsafe extern "C" fn reboot(_: sys::virConnectPtr, domain: sys::virDomainPtr, opaque: *mut c_void) {
    unsafe { tell(opaque, domain, |uuid| Event::Rebooted { uuid }) };
}

unsafe extern "C" fn control_error(_: sys::virConnectPtr, domain: sys::virDomainPtr, opaque: *mut c_void) {
    unsafe { tell(opaque, domain, |uuid| Event::ControlError { uuid }) };
}

unsafe extern "C" fn metadata_change(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _: c_int,
    _: *const c_char,
    opaque: *mut c_void,
) {
    unsafe { tell(opaque, domain, |uuid| Event::MetadataChanged { uuid }) };
}

unsafe extern "C" fn migration_iteration(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _: c_int,
    opaque: *mut c_void,
) {
    unsafe { tell(opaque, domain, |uuid| Event::Copying { uuid }) };
}

unsafe extern "C" fn job_completed(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _: sys::virTypedParameterPtr,
    _: c_int,
    opaque: *mut c_void,
) {
    unsafe { tell(opaque, domain, |uuid| Event::JobCompleted { uuid }) };
}

unsafe extern "C" fn closed(_: sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    // SAFETY: as for `tell`. Sending copies two integers and cannot panic.
    unsafe { &*opaque.cast::<Sink>() }.send(Event::Closed { reason });
}

unsafe extern "C" fn free(opaque: *mut c_void) {
    // SAFETY: made by `boxed`, freed once: by libvirt, or by us where it refused.
    drop(unsafe { Box::from_raw(opaque.cast::<Sink>()) });
}
