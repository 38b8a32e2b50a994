// A file descriptor with an owner.
#pragma once

#include <unistd.h>

#include <utility>

namespace anyserve {

/// Owns one file descriptor, and closes it. Knows nothing of what it is.
class Fd {
public:
    Fd() noexcept = default;
    /// Takes a descriptor over; a negative one, as failing system calls return it, is none.
    explicit Fd(int fd) noexcept : fd_(fd) {}
    ~Fd() { reset(); }
    Fd(Fd&& other) noexcept : fd_(other.release()) {}
    Fd& operator=(Fd&& other) noexcept {
        if (this != &other) {
            reset();
            fd_ = other.release();
        }
        return *this;
    }
    Fd(const Fd&) = delete;
    Fd& operator=(const Fd&) = delete;

    [[nodiscard]] int get() const noexcept { return fd_; }
    [[nodiscard]] explicit operator bool() const noexcept { return fd_ >= 0; }
    /// Gives the descriptor away without closing it.
    [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
    /// Closes it. Not repeated after EINTR: on Linux the descriptor is gone then, and its number may be in use again.
    void reset() noexcept {
        if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    }

private:
    int fd_ = -1;
};

}  // namespace anyserve
