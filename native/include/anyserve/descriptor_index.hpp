// Which file of a FileDescriptorSet defines what. Pure.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace anyserve {

/// Finds files by their names and by the names of what they define. A set that is malformed has no files.
class DescriptorIndex {
public:
    /// `descriptor_set`: a serialized FileDescriptorSet, which must outlive the index and what it gives.
    explicit DescriptorIndex(std::string_view descriptor_set);

    /// A serialized FileDescriptorProto; empty if there is none of this name.
    [[nodiscard]] std::string_view file(std::string_view name) const noexcept;
    /// The same, by the full name of a message, enum or service in it, or of one of their fields, values or methods.
    [[nodiscard]] std::string_view file_of(std::string_view symbol) const noexcept;
    [[nodiscard]] bool is_message(std::string_view symbol) const noexcept;

private:
    struct Symbol {
        std::string_view file;
        bool message;
    };
    class Reader;

    std::map<std::string_view, std::string_view> files_;
    std::map<std::string, Symbol, std::less<>> symbols_;
};

}  // namespace anyserve
