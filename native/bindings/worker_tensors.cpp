// Arrays on the bytes of requests, and replies from the bytes of arrays. With the interpreter's lock.
#include <nanobind/stl/string.h>

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <protozero/pbf_reader.hpp>
#include <stdexcept>
#include <utility>

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
enum RequestField : std::uint32_t { kInputs = 5, kRequestedOutputs = 6, kRawInputs = 7 };
enum ResponseField : std::uint32_t { kOutputs = 5, kRawOutputs = 6 };
enum TensorField : std::uint32_t { kName = 1, kDatatype = 2, kShape = 3 };

/// The bytes of a request for numpy: read-only, and there as long as an array is.
struct RequestMemory {
    WorkerExchangePtr exchange;
};

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
    const std::string_view bytes = nb::inst_ptr<RequestMemory>(self)->exchange->request();
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

using protozero::pbf_wire_type;

/// False: anything but a name, a datatype of ours and a shape.
bool read_tensor(std::string_view bytes, const NumpyTypes& types, Tensor& tensor) {
    protozero::pbf_reader reader(bytes.data(), bytes.size());
    const auto dimension = [&](std::int64_t size) {
        if (tensor.dimensions == kMaxDimensions) return false;
        tensor.shape[tensor.dimensions++] = size;
        return true;
    };
    while (reader.next()) {
        if (reader.tag() == kShape && reader.wire_type() == pbf_wire_type::varint) {
            if (!dimension(reader.get_int64())) return false;
            continue;
        }
        if (reader.wire_type() != pbf_wire_type::length_delimited) return false;
        if (reader.tag() == kShape) {
            for (const std::int64_t size : reader.get_packed_int64()) {
                if (!dimension(size)) return false;
            }
            continue;
        }
        const protozero::data_view text = reader.get_view();
        if (reader.tag() == kName) {
            tensor.name = {text.data(), text.size()};
        } else if (reader.tag() == kDatatype) {
            tensor.type = types.by_name({text.data(), text.size()});
        } else {
            return false;
        }
    }
    return tensor.type != nullptr && is_utf8(tensor.name);
}

/// A requested output with a name alone.
bool read_requested(std::string_view bytes) {
    protozero::pbf_reader reader(bytes.data(), bytes.size());
    while (reader.next()) {
        if (reader.tag() != kName || reader.wire_type() != pbf_wire_type::length_delimited) return false;
        const protozero::data_view name = reader.get_view();
        if (!is_utf8({name.data(), name.size()})) return false;
    }
    return true;
}

struct Read {
    std::vector<Tensor> tensors;
    std::vector<std::string_view> raw;
};

bool read_request(std::string_view bytes, const NumpyTypes& types, Read& read) {
    protozero::pbf_reader reader(bytes.data(), bytes.size());
    while (reader.next()) {
        if (reader.wire_type() != pbf_wire_type::length_delimited || reader.tag() > kRawInputs) return false;
        const protozero::data_view view = reader.get_view();
        const std::string_view content(view.data(), view.size());
        switch (reader.tag()) {
            case kInputs:
                if (!read_tensor(content, types, read.tensors.emplace_back())) return false;
                break;
            case kRequestedOutputs:
                if (!read_requested(content)) return false;
                break;
            case kRawInputs: read.raw.push_back(content); break;
            default: break;  // `scan_message` has read them
        }
    }
    return read.tensors.size() == read.raw.size();
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

void append_shape(std::string& out, const Py_buffer& view) {
    if (view.ndim == 0) return;
    std::string sizes;
    for (int i = 0; i < view.ndim; ++i) append_varint(sizes, static_cast<std::uint64_t>(view.shape[i]));
    append_bytes_field(out, kShape, sizes);
}

struct Output {
    std::string_view name;
    const NumpyTypes::Row* type;
    nb::handle array;
    Py_buffer view;
};

/// The buffers of arrays while they are read; those that are not passed on are let go of.
class Outputs {
public:
    ~Outputs() {
        for (Output& each : all_) {
            if (each.view.obj != nullptr) PyBuffer_Release(&each.view);
        }
    }
    [[nodiscard]] bool add(nb::handle name, nb::handle array, nb::handle datatypes, const NumpyTypes& types) {
        if (Py_TYPE(array.ptr()) != reinterpret_cast<PyTypeObject*>(types.ndarray().ptr())) return false;
        const nb::object dtype = array.attr("dtype");
        const NumpyTypes::Row* type = types.by_dtype(dtype);
        if (type == nullptr || !PyUnicode_Check(name.ptr())) return false;
        if (!datatypes.is_none()) {
            PyObject* wanted = PyDict_GetItemWithError(datatypes.ptr(), name.ptr());
            if (wanted != nullptr && PyUnicode_Compare(wanted, type->text.ptr()) != 0) return false;
        }
        Py_ssize_t size = 0;
        const char* text = PyUnicode_AsUTF8AndSize(name.ptr(), &size);
        Output output{{text, static_cast<std::size_t>(size)}, type, array, {}};
        if (text == nullptr || PyObject_GetBuffer(array.ptr(), &output.view, PyBUF_C_CONTIGUOUS) != 0) {
            PyErr_Clear();
            return false;
        }
        all_.push_back(output);
        return true;
    }
    [[nodiscard]] std::vector<Output>& all() noexcept { return all_; }

private:
    std::vector<Output> all_;
};

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
    const std::string_view request = exchange->request();
    Read read;
    try {
        if (!read_request(request, types, read)) return nb::none();
    } catch (const protozero::exception&) {
        return nb::none();
    }
    const nb::object memory = nb::cast(RequestMemory{exchange});
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
        arrays[name] = array_of(tensor, memory, static_cast<std::size_t>(raw.data() - request.data()), types);
        datatypes[name] = tensor.type->text;
    }
    return nb::make_tuple(arrays, datatypes);
}

bool append_tensors(ReplyFrame& frame, nb::handle arrays, nb::handle datatypes, const NumpyTypes& types) {
    if (!PyDict_CheckExact(arrays.ptr())) return false;
    Outputs outputs;
    for (const auto& [name, array] : nb::borrow<nb::dict>(arrays)) {
        if (!outputs.add(name, array, datatypes, types)) return false;
    }
    std::string tensor;
    for (const Output& each : outputs.all()) {
        tensor.clear();
        append_bytes_field(tensor, kName, each.name);
        append_bytes_field(tensor, kDatatype, each.type->name);
        append_shape(tensor, each.view);
        append_bytes_field(frame.own(), kOutputs, tensor);
    }
    for (Output& each : outputs.all()) {
        const std::string_view bytes(static_cast<const char*>(each.view.buf), static_cast<std::size_t>(each.view.len));
        append_field_header(frame.own(), kRawOutputs, bytes.size());
        if (bytes.size() <= kCopiedBytes || !unchanging(each.array)) {
            frame.own().append(bytes);
            continue;
        }
        frame.append_view(bytes);
        frame.keep(kept(each.view));
        each.view.obj = nullptr;
    }
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
