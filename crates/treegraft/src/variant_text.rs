//! GVariant values as text and as JSON.
//!
//! OSTree and Flatpak store numbers of type `t` in big-endian order and those of type `i` and `u` in little-endian order;
//! that is how they are read here.

use serde_json::{Map, Value, json};
use treegraft_object::gvariant::{Dict, Variant};

/// Longest byte string that is shown in full, in bytes: a checksum and a key fit.
const MAX_SHOWN_BYTES: usize = 64;

/// Returns a value as JSON. What has no natural form becomes an object with its type and its bytes.
pub(crate) fn to_json(value: &Variant) -> Value {
    if let Some(text) = value.as_str() {
        return json!(text);
    }
    if let Some(flag) = value.as_bool() {
        return json!(flag);
    }
    if let Some(number) = value.as_int32() {
        return json!(number);
    }
    if let Some(number) = as_uint32(value) {
        return json!(number);
    }
    if let Some(number) = value.as_uint64_be() {
        return json!(number);
    }
    if let Some(texts) = value.as_strings() {
        return json!(texts);
    }
    if let Some(pairs) = value.as_string_pairs() {
        return json!(pairs);
    }
    if let Some(dict) = value.as_dict() {
        return dict_to_json(&dict);
    }
    if let Some(arrays) = value.as_byte_arrays() {
        return Value::Array(arrays.into_iter().map(|bytes| json!({ "hex": hex(bytes) })).collect());
    }
    if let Some(bytes) = value.as_bytes() {
        return json!({ "hex": hex(bytes) });
    }
    json!({ "type": value.type_string(), "hex": hex(value.data()) })
}

/// Returns a dictionary as a JSON object.
pub(crate) fn dict_to_json(dict: &Dict) -> Value {
    let entries = dict.iter().map(|(key, value)| (key.to_owned(), to_json(value)));
    Value::Object(entries.collect::<Map<_, _>>())
}

/// Returns a value as one line of text, or several when a text has several.
pub(crate) fn to_text(value: &Variant) -> String {
    if let Some(text) = value.as_str() {
        return text.trim_end().to_owned();
    }
    if let Some(flag) = value.as_bool() {
        return flag.to_string();
    }
    if let Some(number) = value.as_int32() {
        return number.to_string();
    }
    if let Some(number) = as_uint32(value) {
        return number.to_string();
    }
    if let Some(number) = value.as_uint64_be() {
        return number.to_string();
    }
    if let Some(texts) = value.as_strings() {
        return texts.join(", ");
    }
    if let Some(pairs) = value.as_string_pairs() {
        let pairs: Vec<String> = pairs.into_iter().map(|(first, second)| format!("({first}, {second})")).collect();
        return pairs.join(", ");
    }
    if let Some(dict) = value.as_dict() {
        let entries: Vec<String> = dict.iter().map(|(key, value)| format!("{key}: {}", to_text(value))).collect();
        return format!("{{{}}}", entries.join(", "));
    }
    if let Some(bytes) = value.as_bytes().filter(|bytes| bytes.len() <= MAX_SHOWN_BYTES) {
        return hex(bytes);
    }
    format!("<{}, {} bytes>", value.type_string(), value.data().len())
}

fn as_uint32(value: &Variant) -> Option<u32> {
    (value.type_string() == "u").then(|| value.data().try_into().ok().map(u32::from_le_bytes)).flatten()
}

/// Writes bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_ostree_is_readable() {
        let nested: Dict = [("k", Variant::int32(-1))].into_iter().collect();
        for (value, text, json) in [
            (Variant::string("a\n"), "a", json!("a\n")),
            (Variant::bool(true), "true", json!(true)),
            (Variant::int32(-3), "-3", json!(-3)),
            (Variant::uint32(7), "7", json!(7)),
            (Variant::uint64_be(1 << 40), "1099511627776", json!(1_u64 << 40)),
            (Variant::strings(["x", "y"]), "x, y", json!(["x", "y"])),
            (Variant::string_pairs([("a", "b")]), "(a, b)", json!([["a", "b"]])),
            (Variant::dict(&nested), "{k: -1}", json!({ "k": -1 })),
            (Variant::bytes(&[1, 255]), "01ff", json!({ "hex": "01ff" })),
            (Variant::byte_arrays([[1_u8]]), "<aay, 2 bytes>", json!([{ "hex": "01" }])),
        ] {
            assert_eq!(to_text(&value), text, "text of a `{}`", value.type_string());
            assert_eq!(to_json(&value), json, "JSON of a `{}`", value.type_string());
        }
    }
}
