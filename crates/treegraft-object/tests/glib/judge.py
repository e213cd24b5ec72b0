"""Answers questions about GVariants with GLib itself: one question a line, one answer a line.

    type HEX            is the text a definite type?
    normal HEX HEX      are the bytes the normal form of the type?
    text HEX HEX        are they, and does GLib write the same bytes when it parses the value from its text form?
"""

import sys

from gi.repository import GLib


def answer(verb, *arguments):
    arguments = [bytes.fromhex(argument) for argument in arguments]
    text = arguments[0].decode()
    if not GLib.VariantType.string_is_valid(text) or not GLib.VariantType.new(text).is_definite():
        return "no"
    if verb == "type":
        return "yes"
    variant_type = GLib.VariantType.new(text)
    variant = GLib.Variant.new_from_bytes(variant_type, GLib.Bytes.new(arguments[1]), False)
    if not variant.is_normal_form():
        return "no"
    if verb == "normal":
        return "yes"
    again = GLib.Variant.parse(variant_type, variant.print_(True), None, None)
    same = (again.get_data_as_bytes().get_data() or b"") == arguments[1]
    return "yes" if same else "other bytes for " + variant.print_(True).replace("\n", " ")


for line in sys.stdin:
    # An empty argument is written as `-`, so that it does not vanish between spaces.
    words = ["" if word == "-" else word for word in line.split()]
    print(answer(*words), flush=True)
