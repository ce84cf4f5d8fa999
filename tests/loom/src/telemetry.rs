//! Nothing is counted here.

pub mod metrics {
    pub struct Gauge;

    pub struct Entered;

    impl Gauge {
        pub fn hold(&'static self, _amount: usize) -> Entered {
            Entered
        }
    }
}
