// What a handler is given: the request, and where its replies go. Part of the public interface of the C++ worker
// library: see `worker.hpp`.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "anyserve/code.hpp"
#include "anyserve/tensor.hpp"

namespace anyserve {

/// The value of a parameter of a request or a reply; monostate where none of its choices is set.
using Parameter = std::variant<std::monostate, bool, std::int64_t, std::uint64_t, double, std::string_view>;

inline namespace v1 {

struct ReplyState;  // private to the library
class StreamReplies;

/// One request. All texts and bytes are views of its memory, and last as long as the handler's call.
class ANYSERVE_WORKER_API Request {
public:
    explicit Request(RequestState& state) noexcept : state_(state) {}
    Request(const Request&) = delete;
    Request& operator=(const Request&) = delete;

    /// As the client sent it; may be empty.
    [[nodiscard]] std::string_view id() const noexcept;
    [[nodiscard]] std::string_view model_name() const noexcept;
    [[nodiscard]] std::string_view model_version() const noexcept;
    /// The registered capability that the request matched.
    [[nodiscard]] const std::map<std::string, std::string>& capability() const noexcept;
    /// The client's trace, to be passed on; empty if there is none.
    [[nodiscard]] std::string_view traceparent() const noexcept;

    /// The inputs, in their order.
    [[nodiscard]] std::span<const Tensor> tensors() const noexcept;
    /// The input of that name; null if there is none.
    [[nodiscard]] const Tensor* find(std::string_view name) const noexcept;
    /// The input of that name. Throws InferenceError with INVALID_ARGUMENT if there is none.
    [[nodiscard]] const Tensor& tensor(std::string_view name) const;

    /// A parameter of the request; null if it is not there.
    [[nodiscard]] const Parameter* parameter(std::string_view name) const noexcept;
    /// The same as what `otherwise` is, which stands in for one that is not there: a bool, an integer (`std::int64_t`),
    /// a floating-point number (`double`) or a text (`std::string_view`). Throws InferenceError with INVALID_ARGUMENT
    /// if the parameter is something else.
    template <class T>
    [[nodiscard]] auto parameter(std::string_view name, T otherwise) const {
        if constexpr (std::is_same_v<T, bool>) {
            return flag(name, otherwise);
        } else if constexpr (std::is_integral_v<T>) {
            return integer(name, static_cast<std::int64_t>(otherwise));
        } else if constexpr (std::is_floating_point_v<T>) {
            return number(name, static_cast<double>(otherwise));
        } else {
            return text(name, otherwise);
        }
    }

    /// When the client gives up, where it said so.
    [[nodiscard]] std::optional<std::chrono::steady_clock::time_point> deadline() const noexcept;
    /// Whether the reply is no longer wanted: the client has gone, its deadline has passed, or the worker gives up.
    [[nodiscard]] bool cancelled() const noexcept;
    /// The same, to wait on or to be told by: `std::stop_callback`, `std::condition_variable_any`. Callbacks run on a
    /// thread of the library, and must not block. Any thread may hold it, also beyond the handler's call.
    [[nodiscard]] std::stop_token cancellation() const;

private:
    friend class Reply;

    [[nodiscard]] bool flag(std::string_view name, bool otherwise) const;
    [[nodiscard]] std::int64_t integer(std::string_view name, std::int64_t otherwise) const;
    [[nodiscard]] double number(std::string_view name, double otherwise) const;
    [[nodiscard]] std::string_view text(std::string_view name, std::string_view otherwise) const;

    RequestState& state_;
};

/// One reply, to be filled.
///
/// Large contents are sent from where they are, by `writev`: only what says "copied" is.
class ANYSERVE_WORKER_API Reply {
public:
    /// Fills `id`, `model_name` and `model_version` nowhere: the agent does.
    Reply();
    /// The same for a stream's replies that have bytes of its request: those are not copied.
    explicit Reply(const Request& request);
    ~Reply();
    Reply(Reply&&) noexcept;
    Reply& operator=(Reply&&) noexcept;

    /// Adds an output, and returns its elements, which are not set yet, to be written.
    ///
    /// Throws std::invalid_argument: a size is negative, or all together are too many.
    template <TensorElement T>
    [[nodiscard]] std::span<T> add(std::string_view name, std::vector<std::int64_t> shape,
                                   std::string_view datatype = kDatatypeOf<T>) {
        const std::span<std::byte> room = add_room(name, datatype, std::move(shape), sizeof(T));
        return {reinterpret_cast<T*>(room.data()), room.size() / sizeof(T)};
    }
    /// Adds an output of elements in raw form. They are copied, unless they are in the request's memory, or `owner`
    /// keeps them: then they stay until it is let go of, on whatever thread.
    ///
    /// Throws std::invalid_argument: their number is not what datatype and shape say.
    void add(std::string_view name, std::string_view datatype, std::vector<std::int64_t> shape,
             std::span<const std::byte> bytes, std::shared_ptr<const void> owner = nullptr);
    /// Adds a BYTES output; the texts are copied.
    void add_texts(std::string_view name, std::vector<std::int64_t> shape, std::span<const std::string_view> texts);
    /// Adds an input of the request as an output, as it came.
    void add(const Tensor& tensor);

    void set_parameter(std::string_view name, const Parameter& value);

private:
    friend class StreamReplies;
    friend struct ReplyState;

    [[nodiscard]] std::span<std::byte> add_room(std::string_view name, std::string_view datatype,
                                                std::vector<std::int64_t> shape, std::size_t element_bytes);

    std::unique_ptr<ReplyState> state_;
};

/// The replies of a streaming request, in the order in which they are sent. Any thread, but one at a time, and not
/// beyond the handler's call.
class ANYSERVE_WORKER_API Stream {
public:
    explicit Stream(StreamReplies& replies) noexcept : replies_(replies) {}
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    /// Sends a reply; waits while the client is behind.
    ///
    /// Throws InferenceError with CANCELLED when the reply is no longer wanted (let it end the handler), and
    /// std::length_error when it is longer than `max_message_bytes`.
    void send(Reply reply);

private:
    StreamReplies& replies_;
};

}  // namespace v1
}  // namespace anyserve
