//! What comes of the watches, given to the proxy.

use std::collections::BTreeSet;

use carrick_datapath::services::{Proxy, ServiceName};

use super::watch::{Change, Kind};

/// Which objects the proxy knows, so that a listing can tell which of them are gone.
#[derive(Debug, Default)]
pub struct Feed {
    services: Known<ServiceName>,
    slices: Known<(String, String)>,
}

/// The objects of one kind.
#[derive(Debug)]
struct Known<K> {
    names: BTreeSet<K>,
    /// What a listing under way has brought.
    listing: Option<BTreeSet<K>>,
    /// A listing has come to its end.
    whole: bool,
}

impl<K> Default for Known<K> {
    fn default() -> Self {
        Self {
            names: BTreeSet::new(),
            listing: None,
            whole: false,
        }
    }
}

impl<K: Ord + Clone> Known<K> {
    fn is(&mut self, name: K) {
        if let Some(listing) = &mut self.listing {
            listing.insert(name.clone());
        }
        self.names.insert(name);
    }

    fn gone(&mut self, name: &K) {
        if let Some(listing) = &mut self.listing {
            listing.remove(name);
        }
        self.names.remove(name);
    }

    /// Those that the listing did not bring. An end without a beginning is of a listing whose beginning was
    /// forgotten, and says nothing.
    fn ends(&mut self) -> Vec<K> {
        let Some(listed) = self.listing.take() else {
            return Vec::new();
        };
        let gone = self.names.difference(&listed).cloned().collect();
        self.names = listed;
        self.whole = true;
        gone
    }
}

impl Feed {
    /// Gives a change to the proxy.
    pub fn give(&mut self, change: Change, proxy: &mut Proxy) {
        match change {
            Change::Service(service) => {
                self.services.is(service.name.clone());
                proxy.upsert_service(*service);
            }
            Change::ServiceGone(name) => {
                self.services.gone(&name);
                proxy.remove_service(&name);
            }
            Change::Slice { slice, .. } => {
                self.slices
                    .is((slice.namespace.clone(), slice.name.clone()));
                proxy.upsert_slice(&slice);
            }
            Change::SliceGone { namespace, name } => {
                proxy.remove_slice(&namespace, &name);
                self.slices.gone(&(namespace, name));
            }
            Change::Begins(Kind::Services) => self.services.listing = Some(BTreeSet::new()),
            Change::Begins(Kind::Slices) => self.slices.listing = Some(BTreeSet::new()),
            Change::Ends(Kind::Services) => {
                for name in self.services.ends() {
                    proxy.remove_service(&name);
                }
            }
            Change::Ends(Kind::Slices) => {
                for (namespace, name) in self.slices.ends() {
                    proxy.remove_slice(&namespace, &name);
                }
            }
        }
    }

    /// Whether everything of both kinds has come once: before, what is in the switch is more than what
    /// is known, and stays.
    pub const fn is_whole(&self) -> bool {
        self.services.whole && self.slices.whole
    }
}

#[cfg(test)]
pub(super) mod tests {
    use carrick_datapath::Addresses;
    use carrick_datapath::services::{EndpointSlice, NodeView, Options, ProxyMode, Service};
    use serde_json::json;

    use super::super::object;
    use super::*;

    pub(in super::super) fn proxy() -> Proxy {
        let node = NodeView {
            name: "a".into(),
            zone: String::new(),
            addresses: BTreeSet::new(),
            node_port_addresses: Vec::new(),
            gateway: Addresses::default(),
            pod_cidrs: Vec::new(),
        };
        let options = Options {
            mode: ProxyMode::ClusterIp,
            ..Options::default()
        };
        Proxy::new(node, options)
    }

    fn service(name: &str) -> Change {
        let object = json!({
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]},
        });
        let service: Option<Service> = object::service(&serde_json::from_value(object).unwrap());
        Change::Service(Box::new(service.unwrap()))
    }

    fn slice(name: &str) -> Change {
        let object = json!({
            "metadata": {"name": name, "namespace": "n",
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"port": 8080}],
            "endpoints": [{"addresses": ["10.1.0.5"]}],
        });
        let slice: Option<EndpointSlice> =
            object::endpoint_slice(&serde_json::from_value(object).unwrap());
        Change::Slice {
            slice: Box::new(slice.unwrap()),
            triggered: None,
        }
    }

    #[test]
    fn a_listing_tells_what_is_gone() {
        let (mut feed, mut proxy) = (Feed::default(), proxy());
        let mut give = |feed: &mut Feed, changes: Vec<Change>| {
            for change in changes {
                feed.give(change, &mut proxy);
            }
            let names: Vec<String> = proxy.index().names().map(ToString::to_string).collect();
            names
        };
        let begin = || vec![Change::Begins(Kind::Services), Change::Begins(Kind::Slices)];
        let end = || vec![Change::Ends(Kind::Services), Change::Ends(Kind::Slices)];
        give(&mut feed, end());
        assert!(!feed.is_whole(), "an end without a beginning");
        let first = [
            begin(),
            vec![service("web"), service("old"), slice("web-1")],
        ]
        .concat_vec();
        give(&mut feed, first);
        assert!(!feed.is_whole());
        assert_eq!(give(&mut feed, end()), ["n/old", "n/web"]);
        assert!(feed.is_whole());
        // The watch begins anew: one is gone, one came, and one comes before the listing's end.
        let second = [begin(), vec![service("web"), service("new")], end()].concat_vec();
        assert_eq!(give(&mut feed, second), ["n/new", "n/web"]);
        assert!(feed.is_whole(), "what was whole stays so");
    }

    trait ConcatVec {
        fn concat_vec(self) -> Vec<Change>;
    }

    impl<const N: usize> ConcatVec for [Vec<Change>; N] {
        fn concat_vec(self) -> Vec<Change> {
            self.into_iter().flatten().collect()
        }
    }
}
