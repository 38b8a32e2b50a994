# find_package(anyserve): brings anyserve::worker.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
include(${CMAKE_CURRENT_LIST_DIR}/anyserve-targets.cmake)
