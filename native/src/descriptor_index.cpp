#include "anyserve/descriptor_index.hpp"

#include <vector>

#include "anyserve/standard_messages.hpp"

namespace anyserve {

/// Goes through one file. Names are full ones, the scope they are in goes before them.
class DescriptorIndex::Reader {
public:
    Reader(std::map<std::string, Symbol, std::less<>>& symbols, std::string_view file)
        : symbols_(symbols), file_(file) {}

    void read(const messages::FileDescriptorProto& file) {
        for (const auto& message : file.message_type) read(file.package, message);
        for (const auto& type : file.enum_type) read(file.package, type);
        for (const auto& service : file.service) names(add(file.package, service.name), service.method);
    }

private:
    void read(std::string_view scope, const messages::DescriptorProto& message) {
        const std::string name = add(scope, message.name, true);
        names(name, message.field_proto);
        names(name, message.oneof_decl);
        for (const auto& nested : message.nested_type) read(name, nested);
        for (const auto& type : message.enum_type) read(name, type);
    }
    void read(std::string_view scope, const messages::EnumDescriptorProto& type) {
        add(scope, type.name);
        names(scope, type.value);  // values are beside their enum, as in C++
    }
    void names(std::string_view scope, const std::vector<messages::NamedDescriptorProto>& named) {
        for (const auto& each : named) add(scope, each.name);
    }
    std::string add(std::string_view scope, std::string_view name, bool message = false) {
        std::string full(scope);
        if (!full.empty()) full += '.';
        full += name;
        symbols_.emplace(full, Symbol{file_, message});
        return full;
    }

    std::map<std::string, Symbol, std::less<>>& symbols_;
    std::string_view file_;
};

DescriptorIndex::DescriptorIndex(std::string_view descriptor_set) {
    const auto set = read_message<messages::FileDescriptorSet>(descriptor_set);
    if (!set) return;
    for (const Bytes& serialized : set->file) {
        const auto file = read_message<messages::FileDescriptorProto>(serialized.value);
        if (!file) continue;
        files_.emplace(file->name, serialized.value);
        Reader(symbols_, serialized.value).read(*file);
    }
}

std::string_view DescriptorIndex::file(std::string_view name) const noexcept {
    const auto found = files_.find(name);
    return found != files_.end() ? found->second : std::string_view();
}

std::string_view DescriptorIndex::file_of(std::string_view symbol) const noexcept {
    const auto found = symbols_.find(symbol);
    return found != symbols_.end() ? found->second.file : std::string_view();
}

bool DescriptorIndex::is_message(std::string_view symbol) const noexcept {
    const auto found = symbols_.find(symbol);
    return found != symbols_.end() && found->second.message;
}

}  // namespace anyserve
