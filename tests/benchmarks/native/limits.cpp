// What no server on this machine can beat: a message to another process and back over a Unix socket, and a copy.
//
// Usage: limits ping-pong|memcpy BYTES AT_ONCE SECONDS. Prints a line: units per second, CPU microseconds of this
// process for each, and the 50th and 99th percentile of the microseconds that one turn, of AT_ONCE units, takes.
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <string_view>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kCacheBytes = std::size_t{64} << 20;  // more than a core has of it

[[noreturn]] void fail(const char* what) {
    std::perror(what);
    std::exit(EXIT_FAILURE);
}

double cpu_seconds() {
    timespec used{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) * 1e-9;
}

/// Reads all of `buffer`; false: the other end has closed.
bool read_all(int socket, std::vector<char>& buffer) {
    for (std::size_t done = 0; done < buffer.size();) {
        const ssize_t got = read(socket, buffer.data() + done, buffer.size() - done);
        if (got < 0) fail("read");
        if (got == 0) return false;
        done += static_cast<std::size_t>(got);
    }
    return true;
}

void write_all(int socket, const std::vector<char>& buffer) {
    for (std::size_t done = 0; done < buffer.size();) {
        const ssize_t sent = write(socket, buffer.data() + done, buffer.size() - done);
        if (sent < 0) fail("write");
        done += static_cast<std::size_t>(sent);
    }
}

/// Runs `turn` for so long, and prints what came of it.
void measure(std::size_t at_once, double seconds, const std::function<void()>& turn) {
    turn();  // pages are there
    std::vector<double> turns;
    const double used_before = cpu_seconds();
    const auto begin = Clock::now();
    for (auto last = begin; last - begin < std::chrono::duration<double>(seconds);) {
        turn();
        const auto now = Clock::now();
        turns.push_back(std::chrono::duration<double, std::micro>(now - last).count());
        last = now;
    }
    const double passed = std::chrono::duration<double>(Clock::now() - begin).count();
    const double used = cpu_seconds() - used_before;
    const double units = static_cast<double>(turns.size() * at_once);
    std::sort(turns.begin(), turns.end());
    std::printf("%f %f %f %f\n", units / passed, used / units * 1e6, turns[turns.size() / 2],
                turns[turns.size() * 99 / 100]);
}

void ping_pong(std::size_t bytes, std::size_t at_once, double seconds) {
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) != 0) fail("socketpair");
    std::vector<char> buffer(bytes * at_once);
    const pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
        close(sockets[0]);
        while (read_all(sockets[1], buffer)) write_all(sockets[1], buffer);
        std::_Exit(EXIT_SUCCESS);
    }
    close(sockets[1]);
    measure(at_once, seconds, [&] {
        write_all(sockets[0], buffer);
        if (!read_all(sockets[0], buffer)) fail("the other process ended");
    });
    close(sockets[0]);
    if (waitpid(child, nullptr, 0) < 0) fail("waitpid");
}

/// Each copy is of other memory than the last, as that of the next tensor is.
void copy(std::size_t bytes, std::size_t at_once, double seconds) {
    const std::size_t places = std::max<std::size_t>(1, kCacheBytes / bytes);
    const std::vector<char> from(places * bytes, 'x');
    std::vector<char> to(from.size());
    std::size_t place = 0;
    measure(at_once, seconds, [&] {
        for (std::size_t count = 0; count < at_once; ++count, place = (place + 1) % places) {
            std::memcpy(to.data() + place * bytes, from.data() + place * bytes, bytes);
            asm volatile("" : : "r"(to.data()) : "memory");
        }
    });
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 5) return EXIT_FAILURE;
    const auto bytes = static_cast<std::size_t>(std::atoll(argv[2]));
    const auto at_once = static_cast<std::size_t>(std::atoll(argv[3]));
    (std::string_view(argv[1]) == "memcpy" ? copy : ping_pong)(bytes, at_once, std::atof(argv[4]));
}
