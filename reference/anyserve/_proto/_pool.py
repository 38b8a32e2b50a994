"""The descriptor pool of the generated modules: one for all of anyserve, apart from the process's default."""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
