//! Programs and fixtures for the tests of vcgroupfs.
