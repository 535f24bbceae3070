from tenner.core import events as events
from tenner.core.errors import BudgetReached as BudgetReached
from tenner.core.errors import DatasetError as DatasetError
from tenner.core.errors import DeliveryError as DeliveryError
from tenner.core.errors import ExitCode as ExitCode
from tenner.core.errors import InternalError as InternalError
from tenner.core.errors import MachineError as MachineError
from tenner.core.errors import Problem as Problem
from tenner.core.errors import SettingsError as SettingsError
from tenner.core.errors import Stopped as Stopped
from tenner.core.errors import TennerError as TennerError
from tenner.core.errors import TrainingError as TrainingError
from tenner.core.events import Event as Event
from tenner.dataset.check import CheckResult as CheckResult
from tenner.library.checking import check as check
from tenner.library.inspecting import Inspection as Inspection
from tenner.library.inspecting import inspect as inspect
from tenner.library.planning import PlanResult as PlanResult
from tenner.library.planning import compare as compare
from tenner.library.planning import plan as plan
from tenner.library.training import Result as Result
from tenner.library.training import train as train
from tenner.pipeline.comparing import Comparison as Comparison
from tenner.settings.model import Settings as Settings
from tenner.settings.resolve import Request as Request

__version__: str
