//! The customers of the VLA Inference API.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// What a customer pays for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "varchar", rename_all = "snake_case")]
pub enum CustomerTier {
    Free,
    Pro,
    Enterprise,
}

impl CustomerTier {
    pub const ALL: [Self; 3] = [Self::Free, Self::Pro, Self::Enterprise];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Pro => "pro",
            Self::Enterprise => "enterprise",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema, sqlx::FromRow)]
pub struct Customer {
    #[schema(example = "123e4567-e89b-12d3-a456-426614174000")]
    pub customer_id: Uuid,
    #[schema(max_length = 255, example = "robotics@example.com")]
    pub email: String,
    #[schema(max_length = 255, example = "Example Robotics")]
    pub company_name: Option<String>,
    pub tier: CustomerTier,
    /// Requests per minute with all of the customer's keys together.
    #[schema(minimum = 1, example = 60)]
    pub rate_limit_rpm: i32,
    /// Requests per day with all of the customer's keys together.
    #[schema(minimum = 1, example = 1000)]
    pub rate_limit_rpd: i32,
    /// An inactive customer's keys are refused.
    pub is_active: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// The least and the greatest id that begin with these digits, with hyphens or without; `None` if no id can.
pub fn ids_beginning(with: &str) -> Option<(Uuid, Uuid)> {
    let digits: String = with.chars().filter(|char| *char != '-').collect();
    let begins = (1..=32).contains(&digits.len()) && digits.chars().all(|char| char.is_ascii_hexdigit());
    let filled = |filling: char| {
        let id: String = digits.chars().chain(std::iter::repeat(filling)).take(32).collect();
        Uuid::try_parse(&id).ok()
    };
    if begins { filled('0').zip(filled('f')) } else { None }
}
