// How libnghttp2 and `Http2Session` meet: private to the two.
#pragma once

#include <nghttp2/nghttp2.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "anyserve/http2_session.hpp"

namespace anyserve {

/// The library's C callbacks: they find the stream, and call the session.
struct Http2Session::Callbacks {
    /// The library's session, which calls ours; null if there is no memory.
    static nghttp2_session* make(Http2Session& session);
    /// Of the body of each response.
    static ssize_t read_body(nghttp2_session*, std::int32_t id, std::uint8_t* room, std::size_t size,
                             std::uint32_t* flags, nghttp2_data_source*, void* user);

private:
    struct Native;  // all others
};

inline std::string_view view(const std::uint8_t* bytes, std::size_t size) {
    return {reinterpret_cast<const char*>(bytes), size};
}

}  // namespace anyserve
