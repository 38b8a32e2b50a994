// One reply frame on its way to the agent. Pure: bytes, and where they are.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace anyserve {

/// The bytes of a frame: its own, and between them those of others, which are sent from where they are.
class ReplyFrame {
public:
    /// An empty payload, to be filled.
    ReplyFrame() : own_(kHeaderBytes, '\0') {}
    /// A payload that is there as a whole.
    explicit ReplyFrame(std::string_view payload);

    /// The frame's own bytes so far, to append to. The first four are the prefix's.
    [[nodiscard]] std::string& own() noexcept { return own_; }
    /// Others' bytes come next. They must stay until the frame has gone: see `keep`.
    void append_view(std::string_view bytes);
    /// What keeps others' bytes; let go of when the frame has gone, on whatever thread.
    void keep(std::shared_ptr<const void> keeper) { keepers_.push_back(std::move(keeper)); }

    [[nodiscard]] std::size_t payload_size() const noexcept { return size() - kHeaderBytes; }
    /// With its prefix.
    [[nodiscard]] std::size_t size() const noexcept { return own_.size() + outside_; }

    /// A frame whose payload is the first bytes of the room that the agent has offered (`frame.shared.reply`).
    [[nodiscard]] static ReplyFrame by_reference(std::size_t bytes);

    /// Copies the payload; `out` has room for it.
    void copy_payload_to(std::span<char> out) const;

    /// Writes the prefix: nothing is appended after that.
    void seal();
    /// Appends the parts of the frame behind its first `skip` bytes, as far as `parts` has room for `most`.
    void append_parts(std::size_t skip, std::size_t most, std::vector<iovec>& parts) const;

private:
    struct View {
        std::size_t at;  // before this byte of `own_`
        std::string_view bytes;
    };
    static constexpr std::size_t kHeaderBytes = 4;

    std::string own_;
    std::vector<View> views_;
    std::size_t outside_ = 0;  // bytes in `views_`
    bool sealed_ = false;
    std::vector<std::shared_ptr<const void>> keepers_;
};

}  // namespace anyserve
