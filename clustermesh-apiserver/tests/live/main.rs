//! The exporter and the controllers of the Multi-Cluster Services API, each case on a real kube-apiserver and on
//! kube-lite: where they differ, kube-lite is wrong.
//!
//! What only a real one can show is not here: who may do what (`e2e`, with the chart's roles) and what an audit log says.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bench;
mod export;
mod fidelity;
mod lite;
mod mcs;
#[path = "../../../kube-watch/tests/api_server/server.rs"]
mod server;
mod users;

/// Makes two tests of each case: one per server.
macro_rules! battery {
    ($($module:ident :: $case:ident),+ $(,)?) => {
        mod on_kube_lite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() -> anyhow::Result<()> {
                super::$module::$case(super::bench::Bench::on_kube_lite().await?).await
            })+
        }
        mod on_kubernetes {
            $(#[tokio::test]
            async fn $case() -> anyhow::Result<()> {
                super::$module::$case(super::bench::Bench::on_kubernetes().await?).await
            })+
        }
    };
}

battery! {
    export::objects_become_keys_and_follow_every_change,
    export::restarts_remove_what_is_stale_and_nothing_that_is_good,
    export::exports_are_announced_only_once_they_can_be_read,
    export::without_cilium_nodes_identities_and_endpoints_are_derived_with_lasting_numbers,
    fidelity::annotations_count_by_both_of_their_names_and_the_newer_one_wins,
    fidelity::endpoints_come_from_ciliums_slices_and_outlive_a_move_between_two,
    fidelity::ciliums_definitions_may_appear_later,
    fidelity::a_namespace_that_flips_under_load_ends_as_it_is,
    fidelity::services_go_out_in_the_formats_that_are_asked_for,
    mcs::exports_of_all_clusters_become_one_import_with_an_address_and_slices,
    mcs::an_import_has_the_families_that_the_exports_and_this_cluster_have,
    mcs::a_peer_that_has_endpoint_slices_alone_is_imported_with_its_backends,
    mcs::what_no_object_can_have_is_left_out_of_an_import_that_the_api_server_accepts,
    mcs::disagreements_show_on_the_export_and_go_with_their_cause,
    mcs::who_takes_over_writes_nothing_anew_and_removes_what_is_withdrawn,
    mcs::a_namespace_that_does_not_take_part_or_is_going_gets_nothing,
}

mod on_dual_stack {
    use super::{bench::Bench, mcs};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn kube_lite_gives_an_import_an_address_of_each_family() -> anyhow::Result<()> {
        let bench = Bench::on_dual_stack_kube_lite().await?;
        mcs::an_import_has_an_address_of_each_family_in_the_order_of_the_export(bench).await
    }

    #[tokio::test]
    async fn kubernetes_gives_an_import_an_address_of_each_family() -> anyhow::Result<()> {
        let bench = Bench::on_dual_stack_kubernetes().await?;
        mcs::an_import_has_an_address_of_each_family_in_the_order_of_the_export(bench).await
    }
}
