// Texts between Python and the core, and refusals as exceptions.
//
// The core's texts are bytes, and some of them come from the wire unchecked. In Python they are `str`, and bytes that
// are no UTF-8 are lone surrogates there, both ways (PEP 383): so tests can send and see any bytes.
#pragma once

#include <nanobind/nanobind.h>

#include <compare>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "anyserve/capability_text.hpp"
#include "anyserve/utf8.hpp"

namespace anyserve {

/// A `str` in Python, any bytes in the core.
struct Text {
    std::string bytes;

    Text() = default;
    explicit Text(std::string_view text) : bytes(text) {}
    [[nodiscard]] friend auto operator<=>(const Text&, const Text&) = default;
};

/// Bytes for people to read: texts that came over the wire may be cut inside a character.
[[nodiscard]] inline nanobind::object shown_text(std::string_view bytes) {
    const auto size = static_cast<Py_ssize_t>(bytes.size());
    return nanobind::steal(PyUnicode_DecodeUTF8(bytes.data(), size, "replace"));
}

/// The Python exception of a `Refusal` of the core, which tells why by its `message`.
template <class Refusal>
struct Raised : std::runtime_error {
    explicit Raised(const Refusal& refusal)
        : std::runtime_error(is_utf8(refusal.message) ? refusal.message : in_quotes(refusal.message)) {}
};

/// The value, if it is not refused.
template <class Value, class Refusal>
[[nodiscard]] Value or_raise(std::variant<Value, Refusal> result) {
    if (const auto* refusal = std::get_if<Refusal>(&result)) throw Raised<Refusal>(*refusal);
    return std::get<Value>(std::move(result));
}

}  // namespace anyserve

namespace nanobind::detail {

template <>
struct type_caster<anyserve::Text> {
    NB_TYPE_CASTER(anyserve::Text, const_name("str"))

    bool from_python(handle source, std::uint32_t, cleanup_list*) noexcept {
        if (!PyUnicode_Check(source.ptr())) return false;
        const object encoded = steal(PyUnicode_AsEncodedString(source.ptr(), "utf-8", "surrogateescape"));
        char* data = nullptr;
        Py_ssize_t size = 0;
        if (!encoded.is_valid() || PyBytes_AsStringAndSize(encoded.ptr(), &data, &size) != 0) {
            PyErr_Clear();  // surrogates that stand for no byte: no overload takes them
            return false;
        }
        value.bytes.assign(data, static_cast<std::size_t>(size));
        return true;
    }

    static handle from_cpp(const anyserve::Text& text, rv_policy, cleanup_list*) noexcept {
        const auto size = static_cast<Py_ssize_t>(text.bytes.size());
        return PyUnicode_DecodeUTF8(text.bytes.data(), size, "surrogateescape");
    }
};

}  // namespace nanobind::detail
