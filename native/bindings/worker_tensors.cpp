// Arrays on the bytes of requests, and replies from the bytes of arrays. With the interpreter's lock.
#include <nanobind/stl/string.h>

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <utility>

#include "anyserve/message_fields.hpp"
#include "anyserve/scan.hpp"
#include "anyserve/utf8.hpp"
#include "worker.hpp"

namespace nb = nanobind;

namespace anyserve {
namespace {

/// What is smaller is copied: cheaper than to keep an array, and safe whoever has it.
constexpr std::size_t kCopiedBytes = std::size_t{16} << 10;
constexpr std::size_t kMaxDimensions = 32;  // numpy 1 has no more

// Field numbers of the messages, and of the tensors in them.
enum RequestField : std::uint32_t { kParameters = 4, kInputs = 5, kRequestedOutputs = 6, kRawInputs = 7 };
enum ResponseField : std::uint32_t { kOutputs = 5, kRawOutputs = 6 };
enum TensorField : std::uint32_t { kName = 1, kDatatype = 2, kShape = 3 };

/// The bytes of a request for numpy: read-only, and there as long as an array is.
struct RequestMemory {
    std::shared_ptr<const RequestPayload> request;
};

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
    const std::string_view bytes = nb::inst_ptr<RequestMemory>(self)->request->bytes();
    return PyBuffer_FillInfo(view, self, const_cast<char*>(bytes.data()), static_cast<Py_ssize_t>(bytes.size()), 1,
                             flags);
}

struct Tensor {
    std::string_view name;
    const NumpyTypes::Row* type = nullptr;
    std::array<std::int64_t, kMaxDimensions> shape{};
    std::size_t dimensions = 0;

    /// Bytes of its contents; nothing if the shape is none, or too large.
    [[nodiscard]] std::optional<std::size_t> bytes() const noexcept {
        std::size_t size = type->itemsize;
        bool empty = false;
        for (std::size_t i = 0; i < dimensions; ++i) {
            if (shape[i] < 0) return std::nullopt;
            const auto dimension = static_cast<std::size_t>(shape[i]);
            empty |= dimension == 0;
            if (dimension > 1 && size > std::numeric_limits<std::int64_t>::max() / dimension) return std::nullopt;
            size *= dimension > 0 ? dimension : 1;
        }
        return empty ? 0 : size;
    }
};

using message_fields::take_varint;
using message_fields::WireField;
using message_fields::WireReader;
using message_fields::WireType;

bool read_shape(const WireField& field, Tensor& tensor) {
    const auto dimension = [&](std::uint64_t size) {
        if (tensor.dimensions == kMaxDimensions) return false;
        tensor.shape[tensor.dimensions++] = static_cast<std::int64_t>(size);
        return true;
    };
    if (field.type == WireType::varint) return dimension(field.varint);
    for (std::string_view packed = field.bytes; !packed.empty();) {
        const auto size = take_varint(packed);
        if (!size || !dimension(*size)) return false;
    }
    return field.type == WireType::length_delimited;
}

/// False: anything but a name, a datatype of ours and a shape.
bool read_tensor(std::string_view bytes, const NumpyTypes& types, Tensor& tensor) {
    WireReader reader(bytes);
    WireField field;
    while (reader.next(field)) {
        if (field.number == kShape) {
            if (!read_shape(field, tensor)) return false;
            continue;
        }
        if (field.type != WireType::length_delimited) return false;
        if (field.number == kName) {
            tensor.name = field.bytes;
            if (!is_utf8(tensor.name)) return false;
        } else if (field.number == kDatatype) {
            tensor.type = types.by_name(field.bytes);
            if (tensor.type == nullptr) return false;
        } else {
            return false;
        }
    }
    return !reader.malformed() && tensor.type != nullptr;
}

/// A requested output with a name alone.
bool read_requested(std::string_view bytes) {
    WireReader reader(bytes);
    WireField field;
    while (reader.next(field)) {
        if (field.number != kName || field.type != WireType::length_delimited || !is_utf8(field.bytes)) return false;
    }
    return !reader.malformed();
}

/// An entry of the parameters, of which `scan_message` has read what it needs.
bool read_parameter(std::string_view entry) {
    WireReader reader(entry);
    WireField field;
    while (reader.next(field)) {
        if (field.number != message_fields::kMapValue) continue;
        WireReader value(field.bytes);
        while (value.next(field)) {
        }
        if (value.malformed()) return false;
    }
    return !reader.malformed();
}

struct Read {
    std::vector<Tensor> tensors;
    std::vector<std::string_view> raw;
};

/// What protobuf's own parsers refuse is refused here: what goes by the message is refused there.
bool read_request(std::string_view bytes, const NumpyTypes& types, Read& read) {
    WireReader reader(bytes);
    WireField field;
    while (reader.next(field)) {
        if (field.type != WireType::length_delimited || field.number > kRawInputs) return false;
        switch (field.number) {
            case kParameters:
                if (!read_parameter(field.bytes)) return false;
                break;
            case kInputs:
                if (!read_tensor(field.bytes, types, read.tensors.emplace_back())) return false;
                break;
            case kRequestedOutputs:
                if (!read_requested(field.bytes)) return false;
                break;
            case kRawInputs: read.raw.push_back(field.bytes); break;
            default: break;  // texts that `scan_message` has read
        }
    }
    return !reader.malformed();
}

/// Other bytes make bools that equal neither True nor False.
bool all_bools(std::string_view bytes) {
    unsigned char seen = 0;
    for (const char byte : bytes) seen |= static_cast<unsigned char>(byte);
    return seen <= 1;
}

nb::object array_of(const Tensor& tensor, nb::handle memory, std::size_t offset, const NumpyTypes& types) {
    const nb::object shape = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(tensor.dimensions)));
    for (std::size_t i = 0; i < tensor.dimensions; ++i) {
        PyTuple_SetItem(shape.ptr(), static_cast<Py_ssize_t>(i), PyLong_FromLongLong(tensor.shape[i]));
    }
    return types.ndarray()(shape, tensor.type->dtype, memory, offset);
}

/// Holds a buffer of Python's; let go of on any thread.
std::shared_ptr<const void> kept(const Py_buffer& view) {
    return {new Py_buffer(view), [](Py_buffer* held) {
                const nb::gil_scoped_acquire locked;
                PyBuffer_Release(held);
                delete held;
            }};
}

/// Nobody else can write to it while it is sent: it has its bytes for itself and is nowhere but in the handler's reply
/// and in our view of it, or they are a request's.
bool unchanging(nb::handle array) {
    if (Py_REFCNT(array.ptr()) == 2 && nb::cast<bool>(array.attr("flags").attr("owndata"))) return true;
    if (nb::cast<bool>(array.attr("flags").attr("writeable"))) return false;
    nb::object base = array.attr("base");
    for (int depth = 0; depth < 2 && !base.is_none(); ++depth) {
        if (nb::isinstance<RequestMemory>(base)) return true;
        if (!nb::hasattr(base, "base")) return false;
        base = base.attr("base");
    }
    return false;
}

struct Output {
    std::string_view name;
    std::string_view datatype;
    nb::handle array;
    Py_buffer view{};                // of an array of numbers
    std::optional<std::string> raw;  // of texts
    std::size_t texts = 0;           // how many
};

bool append_text(std::string& raw, nb::handle element) {
    Py_ssize_t size = 0;
    const char* bytes = nullptr;
    if (PyBytes_Check(element.ptr())) {
        bytes = PyBytes_AsString(element.ptr());
        size = PyBytes_Size(element.ptr());
    } else if (PyUnicode_Check(element.ptr())) {
        bytes = PyUnicode_AsUTF8AndSize(element.ptr(), &size);
    }
    if (bytes == nullptr || size > std::numeric_limits<std::int32_t>::max()) {
        PyErr_Clear();
        return false;
    }
    const auto length = static_cast<std::uint32_t>(size);
    for (const unsigned shift : {0U, 8U, 16U, 24U}) raw += static_cast<char>(length >> shift & 0xffU);
    raw.append(bytes, length);
    return true;
}

/// The raw form of a list of texts; nothing if it is anything else.
std::optional<std::string> texts_of(nb::handle list) {
    if (!PyList_CheckExact(list.ptr()) || PyList_Size(list.ptr()) == 0) return std::nullopt;
    std::string raw;
    for (Py_ssize_t i = 0; i < PyList_Size(list.ptr()); ++i) {
        if (!append_text(raw, PyList_GetItem(list.ptr(), i))) return std::nullopt;
    }
    return raw;
}

/// The buffers of arrays while they are read; those that are not passed on are let go of.
class Outputs {
public:
    Outputs(nb::handle datatypes, const NumpyTypes& types) : datatypes_(datatypes), types_(types) {}
    ~Outputs() {
        for (Output& each : all_) {
            if (each.view.obj != nullptr) PyBuffer_Release(&each.view);
        }
    }
    Outputs(const Outputs&) = delete;
    Outputs& operator=(const Outputs&) = delete;

    [[nodiscard]] bool add(nb::handle name, nb::handle value) {
        Py_ssize_t size = 0;
        const char* text = PyUnicode_Check(name.ptr()) ? PyUnicode_AsUTF8AndSize(name.ptr(), &size) : nullptr;
        if (text == nullptr) {
            PyErr_Clear();
            return false;
        }
        Output output{{text, static_cast<std::size_t>(size)}, {}, value, {}, {}, 0};
        if (!read(output)) return false;
        all_.push_back(std::move(output));
        return wanted(name);
    }
    [[nodiscard]] std::vector<Output>& all() noexcept { return all_; }

private:
    [[nodiscard]] static bool read_texts(Output& output, nb::handle list) {
        output.raw = texts_of(list);
        if (!output.raw) return false;
        output.datatype = "BYTES";
        output.texts = static_cast<std::size_t>(PyList_Size(list.ptr()));
        return true;
    }
    [[nodiscard]] bool read(Output& output) const {
        if (!Py_IS_TYPE(output.array.ptr(), reinterpret_cast<PyTypeObject*>(types_.ndarray().ptr()))) {
            return read_texts(output, output.array);
        }
        const nb::object dtype = output.array.attr("dtype");
        const NumpyTypes::Row* type = types_.by_dtype(dtype);
        if (type == nullptr) {  // an array of objects with one axis is a list of them
            const bool objects = nb::cast<std::string>(dtype.attr("char")) == "O";
            if (!objects || nb::cast<int>(output.array.attr("ndim")) != 1) return false;
            return read_texts(output, output.array.attr("tolist")());
        }
        output.datatype = type->name;
        if (PyObject_GetBuffer(output.array.ptr(), &output.view, PyBUF_C_CONTIGUOUS) == 0) return true;
        PyErr_Clear();
        return false;
    }
    /// Whether the last one has the datatype that is wanted, if one is.
    [[nodiscard]] bool wanted(nb::handle name) const {
        if (datatypes_.is_none()) return true;
        PyObject* datatype = PyDict_GetItemWithError(datatypes_.ptr(), name.ptr());
        return datatype == nullptr || nb::cast<std::string>(nb::handle(datatype)) == all_.back().datatype;
    }

    nb::handle datatypes_;
    const NumpyTypes& types_;
    std::vector<Output> all_;
};

void append_shape(std::string& out, const Output& output) {
    std::string sizes;
    if (output.raw) {
        append_varint(sizes, output.texts);
    } else {
        for (int i = 0; i < output.view.ndim; ++i) {
            append_varint(sizes, static_cast<std::uint64_t>(output.view.shape[i]));
        }
    }
    if (!sizes.empty()) append_bytes_field(out, kShape, sizes);
}

void append_contents(ReplyFrame& frame, Output& output, bool copied_at_once) {
    const auto* data = static_cast<const char*>(output.view.buf);
    const std::string_view bytes =
        output.raw ? std::string_view(*output.raw) : std::string_view(data, static_cast<std::size_t>(output.view.len));
    append_field_header(frame.own(), kRawOutputs, bytes.size());
    if (output.raw || bytes.size() <= kCopiedBytes || !(copied_at_once || unchanging(output.array))) {
        frame.own().append(bytes);
        return;
    }
    frame.append_view(bytes);
    frame.keep(kept(output.view));
    output.view.obj = nullptr;
}

}  // namespace

NumpyTypes::NumpyTypes(nb::object ndarray, const nb::dict& datatypes) : ndarray_(std::move(ndarray)) {
    for (const auto& [name, dtype] : datatypes) {
        rows_.push_back({nb::cast<std::string>(name), nb::borrow(name), nb::borrow(dtype),
                         nb::cast<std::size_t>(dtype.attr("itemsize"))});
    }
}

const NumpyTypes::Row* NumpyTypes::by_name(std::string_view name) const noexcept {
    for (const Row& row : rows_) {
        if (row.name == name) return &row;
    }
    return nullptr;
}

const NumpyTypes::Row* NumpyTypes::by_dtype(nb::handle dtype) const noexcept {
    for (const Row& row : rows_) {
        if (row.dtype.is(dtype)) return &row;
    }
    return nullptr;
}

nb::object tensors_of(const WorkerExchangePtr& exchange, const NumpyTypes& types) {
    const std::string_view request = exchange->request()->bytes();
    Read read;
    const bool whole = read_request(request, types, read) && read_request(exchange->request()->rest(), types, read);
    if (!whole || read.tensors.size() != read.raw.size()) return nb::none();
    const nb::object memory = nb::cast(RequestMemory{exchange->request()});
    nb::dict arrays;
    nb::dict datatypes;
    for (std::size_t i = 0; i < read.tensors.size(); ++i) {
        const Tensor& tensor = read.tensors[i];
        const std::string_view raw = read.raw[i];
        if (tensor.bytes() != raw.size() || (tensor.type->name == "BOOL" && !all_bools(raw))) return nb::none();
        const nb::object name =
            nb::steal(PyUnicode_DecodeUTF8(tensor.name.data(), static_cast<Py_ssize_t>(tensor.name.size()), nullptr));
        if (!name.is_valid()) nb::raise_python_error();
        if (PyDict_Contains(arrays.ptr(), name.ptr()) != 0) return nb::none();
        if (raw.data() < request.data() || raw.data() > request.data() + request.size()) return nb::none();
        arrays[name] = array_of(tensor, memory, static_cast<std::size_t>(raw.data() - request.data()), types);
        datatypes[name] = tensor.type->text;
    }
    return nb::make_tuple(arrays, datatypes);
}

bool append_tensors(ReplyFrame& frame, nb::handle arrays, nb::handle datatypes, const NumpyTypes& types,
                    const WorkerExchange* exchange) {
    if (!PyDict_CheckExact(arrays.ptr())) return false;
    Outputs outputs(datatypes, types);
    for (const auto& [name, array] : nb::borrow<nb::dict>(arrays)) {
        if (!outputs.add(name, array)) return false;
    }
    std::string tensor;
    for (const Output& each : outputs.all()) {
        tensor.clear();
        append_bytes_field(tensor, kName, each.name);
        append_bytes_field(tensor, kDatatype, each.datatype);
        append_shape(tensor, each);
        append_bytes_field(frame.own(), kOutputs, tensor);
    }
    constexpr std::size_t kMostHeaderBytes = 8;  // of contents
    std::size_t bytes = frame.payload_size() + outputs.all().size() * kMostHeaderBytes;
    for (const Output& each : outputs.all()) bytes += each.raw ? 0 : static_cast<std::size_t>(each.view.len);
    const bool copied_at_once = exchange != nullptr && exchange->copies(bytes);
    for (Output& each : outputs.all()) append_contents(frame, each, copied_at_once);
    return true;
}

void append_bytes(ReplyFrame& frame, const nb::bytes& bytes) {
    const std::string_view content(bytes.c_str(), bytes.size());
    if (content.size() <= kCopiedBytes) {
        frame.own().append(content);
        return;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(bytes.ptr(), &view, PyBUF_SIMPLE) != 0) nb::raise_python_error();
    frame.append_view(content);
    frame.keep(kept(view));
}

void init_request_memory(nb::module_& m) {
    static PyType_Slot slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)}, {0, nullptr}};
    nb::class_<RequestMemory>(m, "RequestMemory", nb::type_slots(slots), "The bytes of a request, read-only.");
}

}  // namespace anyserve
