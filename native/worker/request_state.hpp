// What is behind a `Request`: the exchange, the tensors read of it, and copies where elements do not lie on their
// boundaries.
#pragma once

#include <atomic>
#include <cstddef>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "anyserve/exchange.hpp"
#include "cancellations.hpp"
#include "worker_server.hpp"

namespace anyserve::inline v1 {

/// Bytes on the heap, on any boundary that elements need, and not set to anything.
using HeapBytes = std::unique_ptr<std::byte[]>;  // NOLINT(*-c-arrays)
[[nodiscard]] inline HeapBytes make_heap_bytes(std::size_t size) {
    return std::make_unique_for_overwrite<std::byte[]>(size);  // NOLINT(*-c-arrays)
}

/// Lives on the stack of the thread that runs the handler.
struct RequestState {
    using Items = std::map<std::string, std::string>;

    RequestState(WorkerExchangePtr its_exchange, const Items& its_capability, Cancellations& all_cancellations)
        : exchange(std::move(its_exchange)), capability(its_capability), cancellations(all_cancellations) {}
    ~RequestState();
    RequestState(const RequestState&) = delete;
    RequestState& operator=(const RequestState&) = delete;

    /// Reads the tensors. Throws InferenceError with INVALID_ARGUMENT: they cannot be read
    /// (`frame.request.bad-tensors`).
    void read_tensors();
    /// The same bytes on a boundary: where they are, or in a copy. Any thread.
    [[nodiscard]] std::span<const std::byte> aligned(std::span<const std::byte> bytes, std::size_t alignment);
    /// Whether these bytes are of the request as it was received.
    [[nodiscard]] bool owns(std::span<const std::byte> bytes) const noexcept;

    const WorkerExchangePtr exchange;
    const Items& capability;
    std::vector<Tensor> tensors;
    std::atomic<bool> watched{false};  // somebody asked for the token
    Cancellations& cancellations;

private:
    [[nodiscard]] Tensor read_tensor(std::string_view message);
    void read_typed(Tensor& tensor, std::string_view message, std::string_view contents);

    std::list<std::string> typed_;  // the elements of tensors that came in typed form
    std::mutex mutex_;
    std::map<const std::byte*, HeapBytes> copies_;  // by where the elements are
};

}  // namespace anyserve::inline v1
