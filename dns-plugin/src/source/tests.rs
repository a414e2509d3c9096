use std::time::Duration;

use super::*;

#[test]
fn the_serial_is_the_time_and_grows_whatever_the_clock_does() {
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    assert_eq!(next_serial(0, at(1_700_000_000)), 1_700_000_000);
    assert_eq!(next_serial(1_700_000_000, at(1_700_000_000)), 1_700_000_001);
    assert_eq!(next_serial(1_700_000_005, at(1_600_000_000)), 1_700_000_006, "the clock was set back");
    assert_eq!(next_serial(7, UNIX_EPOCH - Duration::from_secs(1)), 8);
}
