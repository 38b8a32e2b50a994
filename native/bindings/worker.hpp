// The worker loop for Python: what its parts share.
#pragma once

#include <nanobind/nanobind.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker_server.hpp"

namespace anyserve {

/// numpy's types, as Python has given them.
class NumpyTypes {
public:
    /// `datatypes`: KServe's name to dtype, of those that look on the wire as they do in memory.
    NumpyTypes(nanobind::object ndarray, const nanobind::dict& datatypes);

    struct Row {
        std::string name;
        nanobind::object text;  // the name
        nanobind::object dtype;
        std::size_t itemsize;
    };
    /// Null: not one of them.
    [[nodiscard]] const Row* by_name(std::string_view name) const noexcept;
    [[nodiscard]] const Row* by_dtype(nanobind::handle dtype) const noexcept;
    [[nodiscard]] nanobind::handle ndarray() const noexcept { return ndarray_; }

private:
    nanobind::object ndarray_;
    std::vector<Row> rows_;
};

/// The tensors of a request as read-only arrays on its bytes, by name, and their datatypes. None where that cannot be
/// done, for whatever reason: the way by the message does it, or tells what is wrong.
[[nodiscard]] nanobind::object tensors_of(const WorkerExchangePtr& exchange, const NumpyTypes& types);

/// Appends arrays to a ModelInferResponse. False where that cannot be done, as above; the frame is of no use then.
///
/// Large arrays are sent from where they are if nobody can change them meanwhile, else copied once. `exchange`: whose
/// last frame it will be; null: none's.
[[nodiscard]] bool append_tensors(ReplyFrame& frame, nanobind::handle arrays, nanobind::handle datatypes,
                                  const NumpyTypes& types, const WorkerExchange* exchange);

/// Bytes of Python's, which are sent from where they are if they are many.
void append_bytes(ReplyFrame& frame, const nanobind::bytes& bytes);

void init_request_memory(nanobind::module_& m);

}  // namespace anyserve
