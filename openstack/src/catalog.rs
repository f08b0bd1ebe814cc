//! Where Nova and Glance are: the service catalog that comes with a token.

use crate::credentials::Interface;
use reqwest::Url;
use serde::Deserialize;
use std::collections::BTreeSet;

/// As the catalog names Nova.
const COMPUTE: &str = "compute";
/// As it names Glance.
const IMAGE: &str = "image";

/// A service with its endpoints.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Service {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, Deserialize)]
struct Endpoint {
    #[serde(default)]
    interface: String,
    #[serde(default)]
    region_id: Option<String>,
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    url: String,
}

impl Endpoint {
    fn region(&self) -> &str {
        self.region_id.as_deref().or(self.region.as_deref()).unwrap_or_default()
    }
}

/// Why the catalog does not tell where Nova is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogProblem {
    #[error(
        "the catalog has no service of type compute; it has {}: is the project right, does the user have a role in it?",
        shown(.has)
    )]
    NoCompute { has: Vec<String> },
    #[error("the catalog has no compute in region {wanted}; it has {}: correct `region_name`", shown(.has))]
    UnknownRegion { wanted: String, has: Vec<String> },
    #[error("the catalog has no {interface} endpoint of type image in the region of compute; it has {}", shown(.has))]
    NoImage { interface: &'static str, has: Vec<String> },
    #[error("the catalog has compute in the regions {}: name one in `region_name`", shown(.has))]
    WhichRegion { has: Vec<String> },
    #[error("the catalog has no {wanted} endpoint of compute; it has {}: correct `interface`", shown(.has))]
    UnknownInterface { wanted: &'static str, has: Vec<String> },
    #[error("the compute endpoint in the catalog is {url}, which is no address")]
    NoAddress { url: String },
}

fn shown(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// The one compute endpoint that is meant.
pub(crate) fn compute(catalog: &[Service], region: Option<&str>, interface: Interface) -> Result<Url, CatalogProblem> {
    let of_kind: Vec<&Service> = catalog.iter().filter(|service| service.kind == COMPUTE).collect();
    if of_kind.is_empty() {
        return Err(CatalogProblem::NoCompute { has: names(catalog.iter().map(|service| service.kind.as_str())) });
    }
    let all: Vec<&Endpoint> = of_kind.iter().flat_map(|service| &service.endpoints).collect();
    let regions = names(all.iter().map(|endpoint| endpoint.region()));
    let here: Vec<&Endpoint> = match region {
        Some(wanted) if !regions.iter().any(|name| name == wanted) => {
            return Err(CatalogProblem::UnknownRegion { wanted: wanted.to_owned(), has: regions });
        }
        Some(wanted) => all.into_iter().filter(|endpoint| endpoint.region() == wanted).collect(),
        // Another tool would take the first; evacuating in the wrong region is no small mistake.
        None if regions.len() > 1 => return Err(CatalogProblem::WhichRegion { has: regions }),
        None => all,
    };
    let wanted = interface.name();
    let Some(endpoint) = here.iter().find(|endpoint| endpoint.interface == wanted) else {
        let has = names(here.iter().map(|endpoint| endpoint.interface.as_str()));
        return Err(CatalogProblem::UnknownInterface { wanted, has });
    };
    let url = Url::parse(&endpoint.url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| CatalogProblem::NoAddress { url: endpoint.url.clone() })
}

/// Glance, where Nova is: nothing depends on it, so every way to miss is the same.
pub(crate) fn image(catalog: &[Service], region: Option<&str>, interface: Interface) -> Result<Url, CatalogProblem> {
    let of_kind = catalog.iter().filter(|service| service.kind == IMAGE).flat_map(|service| &service.endpoints);
    let here = |endpoint: &&Endpoint| region.is_none_or(|wanted| endpoint.region() == wanted);
    let mut fits = of_kind.filter(here).filter(|endpoint| endpoint.interface == interface.name());
    let has = || names(catalog.iter().map(|service| service.kind.as_str()));
    let url = fits.find_map(|endpoint| Url::parse(&endpoint.url).ok());
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| CatalogProblem::NoImage { interface: interface.name(), has: has() })
}

fn names<'a>(all: impl Iterator<Item = &'a str>) -> Vec<String> {
    all.filter(|name| !name.is_empty()).map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(regions: &[&str]) -> Vec<Service> {
        let endpoints: Vec<_> = regions
            .iter()
            .flat_map(|region| {
                ["public", "internal"].map(|interface| {
                    serde_json::json!({"interface": interface, "region_id": region, "region": region,
                                       "id": "e", "url": format!("http://{interface}.{region}:8774/v2.1")})
                })
            })
            .collect();
        serde_json::from_value(serde_json::json!([
            {"type": "placement", "name": "placement", "id": "s1", "endpoints": []},
            {"type": "compute", "name": "nova", "id": "s2", "endpoints": endpoints},
        ]))
        .unwrap()
    }

    #[test]
    fn region_and_interface_choose_the_endpoint() {
        let catalog = catalog(&["one", "two"]);
        let url = compute(&catalog, Some("two"), Interface::Internal).unwrap();
        assert_eq!(url.as_str(), "http://internal.two:8774/v2.1");
    }

    #[test]
    fn glance_is_looked_for_in_the_same_region_and_may_be_missing() {
        let one = catalog(&["one"]);
        let problem = image(&one, None, Interface::Public).unwrap_err();
        assert!(problem.to_string().contains("it has compute, placement"), "{problem}");
        let glance = serde_json::json!([{"type": "image", "endpoints": [
            {"interface": "public", "region": "one", "url": "http://one:9292"},
            {"interface": "public", "region": "two", "url": "http://two:9292"}]}]);
        let catalog: Vec<Service> = serde_json::from_value(glance).unwrap();
        assert_eq!(image(&catalog, Some("two"), Interface::Public).unwrap().as_str(), "http://two:9292/");
        assert!(image(&catalog, Some("two"), Interface::Internal).is_err());
    }

    #[test]
    fn every_way_to_miss_is_named_with_what_there_is() {
        let two = catalog(&["one", "two"]);
        let has = vec!["one".to_owned(), "two".to_owned()];
        let problem = compute(&two, Some("three"), Interface::Public).unwrap_err();
        assert!(problem.to_string().contains("it has one, two"), "{problem}");
        assert_eq!(compute(&two, None, Interface::Public), Err(CatalogProblem::WhichRegion { has }));
        let problem = compute(&two, Some("one"), Interface::Admin).unwrap_err();
        assert!(problem.to_string().contains("no admin endpoint of compute; it has internal, public"), "{problem}");
        let problem = compute(&two[..1], None, Interface::Public).unwrap_err();
        assert!(problem.to_string().contains("it has placement"), "{problem}");
        assert!(compute(&[], None, Interface::Public).unwrap_err().to_string().contains("it has none"));
    }
}
