//! The blocking calls. Each runs on a worker's thread.
#![allow(unsafe_code)] // One call whose safe wrapper is unsound for empty answers.

use crate::domain_xml::{Description, NOTE_NAMESPACE};
use crate::hypervisor::{Domain, Fault, Migration};
use std::collections::HashMap;
use std::sync::Arc;
use virt::connect::Connect;
use virt::domain::Domain as Handle;
use virt::error::{Error, ErrorDomain, ErrorNumber};
use virt::sys;

/// Descriptions by UUID that need not be read again.
pub(super) type Known = HashMap<String, Arc<Description>>;

/// What the client library itself says failed means that nobody answered.
pub(super) fn fault(e: &Error) -> Fault {
    let message = e.message().to_owned();
    match e.domain() {
        ErrorDomain::Rpc | ErrorDomain::Remote => Fault::NotAnswering(message),
        _ => Fault::Refused(message),
    }
}

fn lookup(connection: &Connect, uuid: &str) -> Result<Option<Handle>, Fault> {
    match Handle::lookup_by_uuid_string(connection, uuid) {
        Ok(handle) => Ok(Some(handle)),
        Err(e) if e.code() == ErrorNumber::NoDomain => Ok(None),
        Err(e) => Err(fault(&e)),
    }
}

fn existing(connection: &Connect, uuid: &str) -> Result<Handle, Fault> {
    lookup(connection, uuid)?.ok_or_else(|| Fault::Refused("the domain is not defined here".into()))
}

pub(super) fn domains(connection: &Connect, known: &Known) -> Result<Vec<Domain>, Fault> {
    let handles = connection.list_all_domains(0).map_err(|e| fault(&e))?;
    let mut out = Vec::with_capacity(handles.len());
    for handle in &handles {
        match describe(handle, known) {
            Ok(domain) => out.push(domain),
            // Gone between the list and the question.
            Err(e) if e.code() == ErrorNumber::NoDomain => {}
            Err(e) => return Err(fault(&e)),
        }
    }
    Ok(out)
}

pub(super) fn domain(connection: &Connect, uuid: &str) -> Result<Option<Domain>, Fault> {
    let Some(handle) = lookup(connection, uuid)? else { return Ok(None) };
    match describe(&handle, &Known::new()) {
        Ok(domain) => Ok(Some(domain)),
        Err(e) if e.code() == ErrorNumber::NoDomain => Ok(None),
        Err(e) => Err(fault(&e)),
    }
}

fn describe(handle: &Handle, known: &Known) -> Result<Domain, Error> {
    let uuid = handle.get_uuid_string()?;
    let (state, reason) = handle.get_state()?;
    let persistent = handle.is_persistent()?;
    let description = match known.get(&uuid) {
        Some(description) => Some(Arc::clone(description)),
        None => read_description(handle),
    };
    Ok(Domain {
        name: handle.get_name()?,
        state,
        reason,
        persistent,
        // Transient domains have neither; not every hypervisor knows managed saves.
        autostart: persistent && handle.get_autostart().unwrap_or(false),
        managed_save: handle.has_managed_save(0).unwrap_or(false),
        description,
        uuid,
    })
}

/// The XML with which another host could define the same domain.
fn read_description(handle: &Handle) -> Option<Arc<Description>> {
    let best = sys::VIR_DOMAIN_XML_SECURE | sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_MIGRATABLE;
    let text = handle.get_xml_desc(best).or_else(|_| handle.get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)).ok()?;
    match Description::parse(&text) {
        Ok(description) => Some(Arc::new(description)),
        Err(e) => {
            tracing::warn!("a domain's XML cannot be read: {e}");
            None
        }
    }
}

pub(super) fn migration(connection: &Connect, uuid: &str) -> Result<Migration, Fault> {
    let Some(handle) = lookup(connection, uuid)? else { return Ok(Migration::None) };
    let (mut kind, mut count, mut params, mut operation) = (0, 0, std::ptr::null_mut(), 0);
    // SAFETY: the handle is alive; libvirt fills in a list that is freed below, or leaves it
    // null with a count of zero, which both following functions accept.
    let read = unsafe {
        let got = sys::virDomainGetJobStats(handle.as_ptr(), &raw mut kind, &raw mut params, &raw mut count, 0);
        if got == 0 {
            sys::virTypedParamsGetInt(params, count, sys::VIR_DOMAIN_JOB_OPERATION.as_ptr(), &raw mut operation);
            sys::virTypedParamsFree(params, count);
        }
        got
    };
    if read != 0 {
        let e = Error::last_error();
        // "Migration statistics are available only on the source host": so this is the target.
        if e.code() == ErrorNumber::OperationUnsupported {
            return Ok(Migration::Incoming);
        }
        // Not active, or a hypervisor that cannot move guests: nothing moves.
        let still = matches!(e.code(), ErrorNumber::OperationInvalid | ErrorNumber::NoSupport);
        return if still { Ok(Migration::None) } else { Err(fault(&e)) };
    }
    let running = kind != sys::VIR_DOMAIN_JOB_NONE as i32;
    Ok(match operation as u32 {
        sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN if running => Migration::Incoming,
        sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT if running => Migration::Outgoing,
        _ => Migration::None,
    })
}

pub(super) fn define(connection: &Connect, xml: &str) -> Result<(), Fault> {
    if xml.contains('\0') {
        return Err(Fault::Refused("the XML holds a zero byte".into()));
    }
    Handle::define_xml(connection, xml).map(drop).map_err(|e| fault(&e))
}

pub(super) fn start(connection: &Connect, uuid: &str) -> Result<(), Fault> {
    existing(connection, uuid)?.create().map(drop).map_err(|e| fault(&e))
}

pub(super) fn destroy(connection: &Connect, uuid: &str) -> Result<(), Fault> {
    existing(connection, uuid)?.destroy().map_err(|e| fault(&e))
}

/// Undefines, keeping NVRAM and TPM state. Snapshots' metadata or a managed save make libvirt
/// refuse, and so they should: they would be lost.
pub(super) fn undefine(connection: &Connect, uuid: &str) -> Result<(), Fault> {
    let handle = existing(connection, uuid)?;
    let (nvram, tpm) = (sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM, sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM);
    let unsupported = |e: &Error| {
        matches!(e.code(), ErrorNumber::InvalidArg | ErrorNumber::NoSupport | ErrorNumber::ArgumentUnsupported)
    };
    let mut result = handle.undefine_flags(nvram | tpm);
    // Older libvirts know fewer flags; those that know none keep the files anyway.
    for flags in [nvram, 0] {
        if result.as_ref().is_err_and(unsupported) {
            result = if flags == 0 { handle.undefine() } else { handle.undefine_flags(flags) };
        }
    }
    result.map_err(|e| fault(&e))
}

pub(super) fn set_autostart(connection: &Connect, uuid: &str, on: bool) -> Result<(), Fault> {
    existing(connection, uuid)?.set_autostart(on).map(drop).map_err(|e| fault(&e))
}

pub(super) fn note_autostart(connection: &Connect, uuid: &str, taken: bool) -> Result<(), Fault> {
    let handle = existing(connection, uuid)?;
    let note = taken.then_some("<autostart taken='yes'/>");
    let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
    let flags = sys::VIR_DOMAIN_AFFECT_CONFIG;
    match handle.set_metadata(kind, note, Some("medevac-agent"), Some(NOTE_NAMESPACE), flags) {
        Ok(_) => Ok(()),
        // Nothing to take away.
        Err(e) if !taken && e.code() == ErrorNumber::NoDomainMetadata => Ok(()),
        Err(e) => Err(fault(&e)),
    }
}
