//! Convolutions and group norm on channels-last data.
