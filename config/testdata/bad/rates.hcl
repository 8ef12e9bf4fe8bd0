data_dir = "data/a"

limits {
  host "a1" {
    requests {
      rate  = "0/s"
      burst = 0
    }
  }

  host "a2" {
    requests {
      rate  = "-1/s"
      burst = -1
    }
  }

  host "a3" {
    requests {
      rate = "10"
    }
  }

  host "a4" {
    requests {
      rate = 10
    }
  }

  host "a5" {
    requests {
      rate  = "10/d"
      burst = 10000001
    }
  }

  host "a6" {
    requests {
      rate = "10000001/s"
    }
  }

  host "a7" {
    requests {
      rate = "99999999999999999999/s"
    }
  }

  host "a8" {
    requests {
      burst = 5
    }
  }

  host "a9" {
    requests {
      rate = "1e3/s"
    }
  }

  host "b1" {
    bandwidth {
      upload   = "0MB"
      download = "-1MB"
      burst    = "4095B"
    }
  }

  host "b2" {
    bandwidth {
      upload   = "10"
      download = 10
      burst    = 4.5
    }
  }

  host "b3" {
    bandwidth {
      upload   = "10mb"
      download = "10Mbit"
      burst    = "2TB"
    }
  }

  host "b4" {
    bandwidth {
      upload = "1001GB"
    }
  }

  host "b5" {
    bandwidth {
      burst = "1MB"
    }
  }

  host "b6" {
    bandwidth {
      upload = ["1MB"]
    }

    bandwidth {}

    queue {
      timeout = "1s"
      size    = 1
    }
  }

  host "b7" {
    requests = "10/s"
    upload   = "1MB"
    rate     = "10/s"

    connections {}
  }

  host "b8" {
    requests "fast" {
      rate = null
    }
  }
}
