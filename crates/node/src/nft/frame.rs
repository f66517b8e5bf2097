//! Tables whose sets change by elements: the frame (sets without elements, chains and their rules) is
//! written once, and what the sets hold is read and changed apart from it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Known, Nft, NftError, is_nft_name, json, refused};

/// What the kernel has of such a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Framed {
    /// Whether the frame is the desired one.
    pub same: bool,
    /// The elements by set, as libnftables-json(5) has them, with numbers for names.
    pub elements: BTreeMap<String, Vec<Value>>,
}

impl Nft {
    /// Reads table `family` `table` and compares its frame with `desired`, a whole
    /// `table FAMILY NAME { … }` without elements; `None` when there is no such table.
    pub async fn framed(
        &self,
        family: &str,
        table: &str,
        desired: &str,
    ) -> Result<Option<Framed>, NftError> {
        let Some((frame, elements)) = self.frame(family, table).await? else {
            return Ok(None);
        };
        let known = self.known.get(&format!("{family} {table}"));
        let same = known.is_some_and(|known| {
            known.desired == desired && known.listing.as_ref() == Some(&frame)
        });
        Ok(Some(Framed { same, elements }))
    }

    /// Makes the table anew in one transaction: the frame `desired`, then the commands `elements`, which
    /// add what its sets hold.
    pub async fn load_framed(
        &mut self,
        family: &str,
        table: &str,
        desired: &str,
        elements: &str,
    ) -> Result<(), NftError> {
        for name in [family, table] {
            if !is_nft_name(name) {
                return Err(NftError::Name {
                    name: name.to_owned(),
                });
            }
        }
        let script =
            format!("table {family} {table}\ndelete table {family} {table}\n{desired}\n{elements}");
        self.change(family, table, &script).await?;
        if let Some((frame, _)) = self.frame(family, table).await? {
            self.known.insert(
                format!("{family} {table}"),
                Known {
                    desired: desired.to_owned(),
                    listing: Some(frame),
                },
            );
            self.remember();
        }
        Ok(())
    }

    /// The table's frame in a form that is the same as long as nobody changes it, and its elements.
    async fn frame(
        &self,
        family: &str,
        table: &str,
    ) -> Result<Option<(String, BTreeMap<String, Vec<Value>>)>, NftError> {
        let run = self
            .run(&["-j", "-n", "list", "table", family, table], "")
            .await?;
        if run.stderr.contains("No such file or directory") {
            return Ok(None);
        }
        if !run.status.success() {
            return Err(refused("list", family, table, &run));
        }
        Ok(Some(apart(json(table, &run)?)))
    }
}

/// A table's frame and its elements.
fn apart(mut told: Value) -> (String, BTreeMap<String, Vec<Value>>) {
    let mut elements = BTreeMap::new();
    let mut frame = Vec::new();
    let objects = told.get_mut("nftables").and_then(Value::as_array_mut);
    for object in objects
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        // What nft says of itself.
        if object.contains_key("metainfo") {
            continue;
        }
        for part in object.values_mut().filter_map(Value::as_object_mut) {
            // The kernel's numbers: others when the same is made again.
            part.remove("handle");
            if let Some(Value::Array(held)) = part.remove("elem")
                && let Some(name) = part.get("name").and_then(Value::as_str)
            {
                elements.insert(name.to_owned(), held);
            }
        }
        frame.push(Value::Object(object.clone()).to_string());
    }
    (frame.join("\n"), elements)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn elements_and_handles_are_no_part_of_the_frame() {
        let told = |handle: u64, elements: Value| {
            let mut set = json!({"family": "inet", "name": "ports", "handle": handle});
            if elements.is_array() {
                set["elem"] = elements;
            }
            json!({"nftables": [{"metainfo": {"version": handle}}, {"set": set},
                {"rule": {"chain": "c", "handle": handle, "expr": [{"drop": null}]}}]})
        };
        let (frame, elements) = apart(told(1, json!([{"concat": [6, 80]}])));
        assert_eq!(elements["ports"], [json!({"concat": [6, 80]})]);
        assert_eq!(
            apart(told(2, Value::Null)),
            (frame.clone(), BTreeMap::new())
        );
        let mut other = told(3, Value::Null);
        other["nftables"][2]["rule"]["expr"] = json!([{"accept": null}]);
        assert_ne!(apart(other).0, frame);
        assert_eq!(apart(Value::Null).0, "");
    }
}
