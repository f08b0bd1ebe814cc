//! What medevac relies on, checked on the fake and on a real cloud by the same code.
//!
//! ```text
//!   cargo test -p medevac-openstack --test contract            the fake
//!   MEDEVAC_CONTRACT=1 OS_CLOUD=... cargo test ... --test contract -- --nocapture real
//! ```
//!
//! On a real cloud these widen what is checked, see `target.rs`: MEDEVAC_CONTRACT_HOST, _TARGET,
//! _SERVERS, _CRASH, _RETURN. Without them only what harms nobody is.

#![allow(clippy::unwrap_used)]

mod dead_host;
mod harmless;
mod one_server;
mod target;

use target::Target;

/// Each check by its name, alone on a fake of its own, and all in this order on the real one.
macro_rules! contract {
    ($($part:ident :: $name:ident),* $(,)?) => {
        mod fake {
            $(
                #[tokio::test]
                async fn $name() {
                    crate::$part::$name(&crate::Target::fake().await).await;
                }
            )*
        }

        #[tokio::test]
        async fn real() {
            let Some(target) = Target::real() else {
                println!("MEDEVAC_CONTRACT is not set: only the fake was checked");
                return;
            };
            $(
                println!("{}", stringify!($name));
                $part::$name(&target).await;
            )*
        }
    };
}

contract![
    harmless::nova_is_reached_and_a_microversion_agreed_on,
    harmless::every_service_has_an_id_and_a_hypervisor,
    harmless::servers_of_a_host_are_those_that_name_it,
    harmless::one_server_is_told_as_in_the_list,
    harmless::aggregates_groups_and_migrations_can_be_read,
    harmless::what_does_not_exist_is_not_found,
    harmless::a_wrong_password_is_refused_by_name,
    harmless::an_unknown_region_is_named_with_those_that_exist,
    harmless::an_endpoint_override_is_used_in_place_of_the_catalog,
    one_server::a_server_stops_and_starts_and_says_when_it_is_so_already,
    one_server::a_lock_is_seen_and_leaves_its_action,
    one_server::a_state_can_be_declared,
    one_server::a_server_of_a_host_that_is_up_is_not_evacuated,
    one_server::an_evacuation_to_its_own_or_to_no_host_is_refused_by_kind,
    dead_host::a_dead_host_is_forced_down_emptied_and_taken_back,
];
